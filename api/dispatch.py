"""From a request to a job, and from a job's events back to an answer."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError, WatchError

from api import jobview
from api.admission import Admission
from api.census import CensusTaker, ModelState
from api.idempotency import IdempotencyKeys
from shared import __version__, endings, fleet, keys, kinds
from shared.blobs import blob_store
from shared.catalog import Catalog
from shared.channel import EventReader, Position, Subscription, batches, is_before_work, parse_id
from shared.connections import connect, connect_async
from shared.errors import (
    BadRequest,
    Cancelled,
    Conflict,
    NotFound,
    TimedOut,
    Unavailable,
)
from shared.events import Delta, Done, Event, Failed
from shared.jobs import JobSpec, new_job_id
from shared.management import make_spec
from shared.manifest import Manifest, ModelEntry
from shared.queues import ForgedJob, StrictJob, make_job, make_queue, queue_name, restore_job
from shared.settings import Settings
from shared.tasks import tasks

log = logging.getLogger("ominix.dispatch")


class Dispatch:
    """The one way between the routes and the jobs. One per API process."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self.settings = settings
        self._catalog = catalog
        self.blobs = blob_store(settings)
        self._redis: Redis = connect_async(settings.redis)
        self._sync = connect(settings.redis, retries=1)  # RQ's objects ask for one; not used per job
        self._reader = EventReader(connect_async(settings.redis))
        self._census = CensusTaker(self._redis, catalog)
        self._admission = Admission(self._redis, self._census, settings)
        self._keys = IdempotencyKeys(self._redis, self.blobs, settings.result_ttl)
        self._expected: dict[str, Subscription] = {}
        self._background: set[asyncio.Task] = set()
        self._stopping = False

    @property
    def manifest(self) -> Manifest:
        """The models as they are now."""
        return self._catalog.manifest

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
        if idempotency_key and (older := await self._keys.claim(idempotency_key, spec)):
            self.blobs.delete(blob)
            return await self.spec(older)
        try:
            served = await self._admission.admit(entry)
            await self._enqueue(spec)
            if not served:
                await self._redis.xadd(keys.STEWARD_WAKE, {"m": entry.id}, maxlen=fleet.WAKES)
        except BaseException:  # a cancellation too leaves the key free
            if idempotency_key:
                self._spawn(self._keys.release(idempotency_key, spec))
            raise
        return spec

    async def manage(self, task: str, request: msgspec.Struct, model: str, *, alone: bool = False) -> JobSpec:
        """Queue a task of `shared.management` for the steward. `alone`: it is the only one that fetches or
        deletes the files of this model. Raises Unavailable if there is no steward, and Conflict."""
        census = await self._census.take()
        if not census.steward:
            census = await self._census.take(0.0)  # it may just have come
        if not census.steward:
            raise Unavailable("Nobody does this here now. Start `ominix steward`, or `ominix serve`.")
        if census.memory_full:
            raise Unavailable("The job store is nearly full.", code="overloaded", retry_after=10)
        spec = make_spec(task, request, model)
        await self._enqueue(spec, alone)
        return spec

    async def change(self, task: str, request: msgspec.Struct) -> JobSpec:
        """`manage` the workers of a model. Raises NotFound, and Unavailable if they are started by hand."""
        entry = self.manifest.resolve(request.model)
        _check_engine(entry)
        if not (await self._census.take()).on_demand:
            raise Unavailable(
                f"Workers are started by hand here. Start, or end, processes of `ominix worker {entry.id}`; "
                "`ominix serve` does it for you."
            )
        return await self.manage(task, request, entry.id)

    def _entry(self, task: str, model: str) -> ModelEntry:
        entry = self.manifest.resolve(model)
        _check_engine(entry)
        if task not in entry.tasks:
            able = ", ".join(each.id for each in self.manifest.for_task(task)) or "none"
            raise BadRequest(
                f"The model '{model}' does not do {task}. Models that do: {able}.",
                param="model",
                code="unsupported_value",
            )
        return entry

    async def _enqueue(self, spec: JobSpec, alone: bool = False) -> None:
        job = make_job(spec, self.settings.result_ttl, self._sync)
        queue = make_queue(queue_name(spec.server, spec.lane), self._sync)
        queue.redis_server_version = self._version
        if not spec.detached:
            self._expected[spec.id] = self._reader.expect(spec.id)
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                await pipe.watch(job.key)  # else redis-py sends it again when the reply is lost
                if alone:
                    await pipe.watch(keys.FILES)
                    await self._check_alone(spec.model, pipe)
                queue.enqueue_job(job, pipeline=pipe)
                pipe.zadd(keys.JOBS, {spec.id: spec.created})
                if alone:
                    pipe.hset(keys.FILES, spec.model, spec.id)
                await pipe.execute()
        except WatchError:
            if not await self._redis.exists(job.key):
                self._forget(spec.id)
                if alone:  # another job was faster, perhaps of another model
                    return await self._enqueue(spec, alone)
                raise Unavailable("The job store was away. Please send it again.", retry_after=1) from None
        except BaseException as error:
            self._forget(spec.id)
            if isinstance(error, asyncio.CancelledError):  # the job may be there, for nobody
                self._spawn(self._abandon(spec.id))
            raise

    async def check_alone(self, model: str) -> None:
        """Raises Conflict while a job fetches or deletes the model's files."""
        await self._check_alone(model, self._redis)

    async def _check_alone(self, model: str, redis: Redis | Pipeline) -> None:
        if not (other := await redis.hget(keys.FILES, model)):
            return
        there, ended = await redis.hmget(StrictJob.key_for(other.decode()), "status", "ended_at")
        if there and not ended:
            where = f"GET /v1/jobs/{other.decode()} says how far it is"
            raise Conflict(f"'{model}' is being fetched or deleted already; {where}.")

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
                async for event_id, event in events:
                    if isinstance(event, Failed):
                        raise event.error()
                    if isinstance(event, Done):
                        return said, event
                    if event.data and not is_before_work(event_id):
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
            pipe.xadd(keys.control(job.spec.server), {"j": job.id}, maxlen=1000, approximate=True)
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

    async def look_again(self) -> None:
        """What is said from now on is not older than this."""
        await self._census.take(0.0)

    async def running_models(self) -> dict[str, dict]:
        """Model id -> {"ready", "waiting", "running", "hosts", "replicas", "state"}; hosts: ready workers by
        host; replicas: workers that there are to be, None where nobody sees to it."""
        census = await self._census.take()
        return {
            name: {
                "ready": state.ready,
                "waiting": state.waiting,
                "running": state.running,
                "hosts": state.hosts,
                "replicas": state.wanted,
                "state": _word(state),
            }
            for name, state in census.models.items()
        }

    async def health(self) -> tuple[int, dict]:
        """The status and body of `/health`: "ok" only while every model that is to be loaded has a live
        worker."""
        try:
            models = await self.running_models()
        except (RedisError, OSError):
            return 503, {"status": "unavailable", "version": __version__, "models": {}}
        degraded = any(model["state"] not in ("ready", "unloaded") for model in models.values())
        return 200, {"status": "degraded" if degraded else "ok", "version": __version__, "models": models}


def _check_engine(entry: ModelEntry) -> None:
    """Raises BadRequest for a model that nothing here can run."""
    if not entry.tasks:
        raise BadRequest(kinds.no_engine(entry.id, entry.engine), param="model", code="unsupported_value")


def _word(state: ModelState) -> str:
    """How it is: without a worker "unloaded" if that is as it should be, else "missing"."""
    if state.ready:
        return "ready"
    if state.supervised.startswith("failed"):
        return "failed"
    if state.loading or state.supervised or state.wanted:
        return "loading"
    return "missing" if state.wanted is None else "unloaded"


def _position(after: str) -> Position:
    try:
        return parse_id(after)
    except ValueError:
        raise BadRequest(
            "'Last-Event-ID' must be the id of an event, such as 1-12.", param="Last-Event-ID"
        ) from None
