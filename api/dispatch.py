"""From a request to a job, and from a job's events back to an answer."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, WatchError

from api import jobview
from api.census import CensusTaker
from shared import __version__, endings, keys
from shared.blobs import BlobStore
from shared.channel import EventReader, Position, Subscription, batches, parse_id
from shared.connections import connect, connect_async
from shared.errors import (
    BadRequest,
    Cancelled,
    Conflict,
    NotFound,
    QueueFull,
    TimedOut,
    Unavailable,
)
from shared.events import Delta, Done, Event, Failed
from shared.jobs import LANES, JobSpec, new_job_id
from shared.manifest import Manifest, ModelEntry
from shared.queues import ForgedJob, StrictJob, make_job, make_queue, queue_key, queue_name, restore_job
from shared.settings import Settings
from shared.tasks import tasks

# Take an Idempotency-Key from whom it was seen with.
TAKE_KEY = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""

log = logging.getLogger("ominix.dispatch")


class Dispatch:
    """The one way between the routes and the jobs. One per API process."""

    def __init__(self, settings: Settings, manifest: Manifest) -> None:
        self.settings = settings
        self.manifest = manifest
        self.blobs = BlobStore(settings.blobs_dir)
        self._redis: Redis = connect_async(settings.redis)
        self._sync = connect(settings.redis, retries=1)  # RQ's objects ask for one; not used per job
        self._reader = EventReader(connect_async(settings.redis))
        self._census = CensusTaker(self._redis, manifest)
        self._expected: dict[str, Subscription] = {}
        self._background: set[asyncio.Task] = set()
        self._stopping = False

    async def start(self) -> None:
        await self._reader.start()
        server = await self._redis.info("server")
        self._version = tuple(int(part) for part in server["redis_version"].split(".")[:3])

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._reader.stop()
        await self._redis.aclose()
        self._sync.close()

    # --- in

    async def submit(
        self,
        task: str,
        request: msgspec.Struct,
        *,
        detached: bool,
        blob: str | None = None,
        path: str | None = None,
        filename: str | None = None,
        idempotency_key: str | None = None,
    ) -> JobSpec:
        """Make the request a job and queue it.

        Returns the job's spec, which is an older job's if the idempotency key was used before.
        Raises NotFound, BadRequest, Conflict, QueueFull or Unavailable; the caller then keeps the blob.
        """
        entry = self._entry(task, request.model)
        params = msgspec.to_builtins(request)
        spec = JobSpec(
            id=new_job_id(),
            task=task,
            model=entry.id,
            params=params,
            created=time.time(),
            timeout=entry.timeout,
            lane=tasks()[task].lane(request, detached),
            detached=detached or idempotency_key is not None,
            blob=blob,
            path=path,
            filename=filename,
        )
        if idempotency_key and (older := await self._claim(idempotency_key, spec)):
            self.blobs.delete(blob)
            return older
        try:
            await self._admit(entry)
            await self._enqueue(spec)
        except BaseException:  # a cancellation too leaves the key free
            if idempotency_key:
                self._spawn(self._release(idempotency_key, spec))
            raise
        return spec

    def _entry(self, task: str, model: str) -> ModelEntry:
        entry = self.manifest.resolve(model)
        if task not in entry.tasks:
            able = ", ".join(each.id for each in self.manifest.for_task(task)) or "none"
            raise BadRequest(
                f"The model '{model}' does not do {task}. Models that do: {able}.",
                param="model",
                code="unsupported_value",
            )
        return entry

    async def _admit(self, entry: ModelEntry) -> None:
        """Refuse early: what cannot be served soon is not queued."""
        census = await self._census.take()
        state = census.models[entry.id]
        if not (state.ready or state.loading or state.supervised):
            raise Unavailable(
                f"No worker serves '{entry.id}' now. Start one with `ominix worker {entry.id}`.",
                retry_after=5,
            )
        if state.supervised.startswith("failed") and not state.ready:
            why = state.supervised.removeprefix("failed: ")
            raise Unavailable(f"The model '{entry.id}' cannot be loaded: {why}", retry_after=30)
        if census.memory_full:
            raise Unavailable("The job store is nearly full.", code="overloaded", retry_after=10)
        async with self._redis.pipeline(transaction=False) as pipe:
            for lane in LANES:
                pipe.llen(queue_key(queue_name(entry.id, lane)))
            waiting = sum(await pipe.execute())
        if waiting >= entry.max_waiting:
            seconds = await self._drain_time(entry, waiting)
            raise QueueFull(
                f"{waiting} jobs are waiting for '{entry.id}', as many as may. Try again in {seconds} s.",
                retry_after=seconds,
            )

    async def _drain_time(self, entry: ModelEntry, waiting: int) -> int:
        """Seconds until a tenth of the line has gone, from what was finished in the last minute."""
        expiry = time.time() + self.settings.result_ttl
        async with self._redis.pipeline(transaction=False) as pipe:
            for lane in LANES:
                pipe.zcount(f"rq:finished:{queue_name(entry.id, lane)}", expiry - 60, "+inf")
            finished = sum(await pipe.execute())
        return max(1, min(60, round(waiting / 10 / max(finished / 60, 0.1))))

    async def _enqueue(self, spec: JobSpec) -> None:
        job = make_job(spec, self.settings.result_ttl, self._sync)
        queue = make_queue(queue_name(spec.model, spec.lane), self._sync)
        queue.redis_server_version = self._version
        if not spec.detached:
            self._expected[spec.id] = self._reader.expect(spec.id)
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                await pipe.watch(job.key)  # else redis-py sends it again when the reply is lost
                queue.enqueue_job(job, pipeline=pipe)
                pipe.zadd(keys.JOBS, {spec.id: spec.created})
                await pipe.execute()
        except WatchError:
            if not await self._redis.exists(job.key):
                self._forget(spec.id)
                raise Unavailable("The job store was away. Please send it again.", retry_after=1) from None
        except BaseException as error:
            self._forget(spec.id)
            if isinstance(error, asyncio.CancelledError):  # the job may be there, for nobody
                self._spawn(self._abandon(spec.id))
            raise

    async def _claim(self, idempotency_key: str, spec: JobSpec) -> JobSpec | None:
        """Take the key for this job, or return the job that has it."""
        key = _key_of(idempotency_key)
        mine = f"{spec.id} {await self._fingerprint(spec)}"
        ttl = self.settings.result_ttl
        for _ in range(50):
            if await self._redis.set(key, mine, nx=True, ex=ttl):
                return None
            held = (await self._redis.get(key)) or b""
            older, _, fingerprint = held.decode().partition(" ")
            if older and fingerprint != mine.partition(" ")[2]:
                raise Conflict("This Idempotency-Key was used before for another request.")
            if older and await self._redis.exists(StrictJob.key_for(older)):
                return await self.spec(older)
            await asyncio.sleep(0.02)
        # its first request was lost on its way: take the key from it, unless another has just done so
        if await self._redis.eval(TAKE_KEY, 1, key, held, mine, ttl):
            return None
        raise Conflict("Another request with this Idempotency-Key is on its way. Please try again.")

    async def _fingerprint(self, spec: JobSpec) -> str:
        """Of all that was asked, an upload's bytes included."""
        digest = await asyncio.to_thread(self.blobs.digest, spec.blob) if spec.blob else None
        asked = [spec.task, spec.model, spec.params, digest, spec.path, spec.filename]
        return hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()

    async def _release(self, idempotency_key: str, spec: JobSpec) -> None:
        """A request that was refused leaves its key free."""
        key = _key_of(idempotency_key)
        if ((await self._redis.get(key)) or b"").startswith(spec.id.encode()):
            await self._redis.delete(key)

    # --- out

    async def batches(self, job_id: str, after: str = "0-0") -> AsyncIterator[list[tuple[str, Event]]]:
        """A job's events with their ids, replayed and then live, in lists of what was ready.

        Raises NotFound, and BadRequest for an `after` that is not an id.
        """
        subscription = self._expected.pop(job_id, None) if after == "0-0" else None
        if subscription is None:
            await self._job(job_id)
            subscription = await self._reader.attach(job_id, _position(after))
        async with aclosing(batches(self._reader, job_id, subscription)) as every:
            async for batch in every:
                yield batch

    async def events(self, job_id: str, after: str = "0-0") -> AsyncIterator[tuple[str, Event]]:
        """As `batches`, one at a time."""
        async with aclosing(self.batches(job_id, after)) as every:
            async for batch in every:
                for pair in batch:
                    yield pair

    async def result(self, job_id: str, timeout: float | None = None) -> tuple[list[Delta], Done]:
        """Wait for a job's answer: its end, and the deltas with data before it. Raises the job's own
        error, or TimedOut naming the job."""
        said: list[Delta] = []
        try:
            limit = asyncio.timeout(timeout or self.settings.request_timeout)
            async with limit, aclosing(self.events(job_id)) as events:
                async for _, event in events:
                    if isinstance(event, Failed):
                        raise event.error()
                    if isinstance(event, Done):
                        return said, event
                    if event.data:
                        said.append(event)
        except TimeoutError:
            raise TimedOut(
                f"No answer within the time limit. The job goes on: GET /v1/jobs/{job_id}/result, or "
                "send 'Prefer: respond-async' for work that takes long."
            ) from None
        raise NotFound(f"The job '{job_id}' has no result any more.")

    # --- jobs

    async def spec(self, job_id: str) -> JobSpec:
        return (await self._job(job_id)).spec

    async def view(self, job_id: str) -> dict:
        """The job object. Raises NotFound."""
        return await jobview.view(self._redis, await self._job(job_id))

    async def views(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> dict:
        """A page of job objects, newest first."""
        return await jobview.page(self._redis, self._restore, status, model, after, limit)

    async def cancel(self, job_id: str) -> dict:
        """Stop a job, waiting or running, and return its object. Raises NotFound."""
        job = await self._job(job_id)
        if job.ended_at is None:
            await self._cancel(job)
        return await self.view(job_id)

    async def _cancel(self, job: StrictJob, patience: float = 2.0) -> None:
        end = Failed.of(Cancelled("The job was cancelled."))
        queue = make_queue(job.origin, self._sync)
        ttl = self.settings.result_ttl
        if await endings.finish_waiting(self._redis, job, queue.key, end, ttl):
            self.blobs.delete(job.spec.blob)
            return
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(keys.cancelled(job.id), 1, ex=ttl)
            pipe.xadd(keys.control(job.spec.model), {"j": job.id}, maxlen=1000, approximate=True)
            await pipe.execute()
        try:
            async with asyncio.timeout(patience), aclosing(self.batches(job.id)) as every:
                async for _ in every:
                    pass
        except TimeoutError:
            log.info("job %s: not stopped after %s s", job.id, patience)

    def leave(self, spec: JobSpec) -> None:
        """The client of a job has gone: nobody else reading it, the work stops."""
        self._forget(spec.id)
        if spec.detached or self._stopping or self._reader.readers(spec.id):
            return
        self._spawn(self._abandon(spec.id))

    def _spawn(self, work: Coroutine) -> None:
        task = asyncio.create_task(work, name="abandon")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _abandon(self, job_id: str) -> None:
        try:
            job = await self._job(job_id)
            if job.ended_at is None:
                await self._cancel(job)
        except NotFound:
            return

    def _forget(self, job_id: str) -> None:
        if subscription := self._expected.pop(job_id, None):
            self._reader.detach(job_id, subscription)

    async def _job(self, job_id: str) -> StrictJob:
        if job := self._restore(job_id, await self._redis.hgetall(StrictJob.key_for(job_id))):
            return job
        raise NotFound(f"There is no job '{job_id}'. Results are kept {self.settings.result_ttl} s.")

    def _restore(self, job_id: str, raw: dict) -> StrictJob | None:
        try:
            return restore_job(job_id, raw, self._sync) if raw else None
        except ForgedJob as error:
            log.warning("%s", error)
            return None

    # --- the whole

    async def running_models(self) -> dict[str, dict]:
        """Model id -> {"ready", "waiting", "running"}."""
        census = await self._census.take()
        return {
            name: {"ready": state.ready, "waiting": state.waiting, "running": state.running}
            for name, state in census.models.items()
        }

    async def health(self) -> tuple[int, dict]:
        """The status and body of `/health`: "ok" only while every model has a live worker."""
        try:
            models = await self.running_models()
        except (RedisError, OSError):
            return 503, {"status": "unavailable", "version": __version__, "models": {}}
        degraded = any(model["ready"] == 0 for model in models.values())
        return 200, {"status": "degraded" if degraded else "ok", "version": __version__, "models": models}


def _key_of(idempotency_key: str) -> str:
    return keys.idempotency(hashlib.sha256(idempotency_key.encode()).hexdigest())


def _position(after: str) -> Position:
    try:
        return parse_id(after)
    except ValueError:
        raise BadRequest(
            "'Last-Event-ID' must be the id of an event, such as 1-12.", param="Last-Event-ID"
        ) from None
