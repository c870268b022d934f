"""One worker process: one model, one RQ worker, one engine thread. All that is known of RQ's insides is here
(and of its registries in `shared.endings` and `workers.settle`)."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError
from rq import Queue
from rq.executions import Execution
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker
from rq.worker.base import WorkerStatus

from shared import keys
from shared.blobs import BlobStore
from shared.channel import STARTED_LENGTH, parse_id
from shared.errors import Cancelled, WorkerDied
from shared.events import Done, End
from shared.manifest import ModelEntry
from shared.queues import ForgedJob, StrictJob, make_queue, queue_name, restore_job
from shared.settings import Settings
from workers.engine import Engine
from workers.flight import Flight, Flights, Slots
from workers.outlet import LeaseLost, Outlet
from workers.room import EngineRoom
from workers.settle import settle_worker

PREPARATION_THREADS = 2
BLOCK = 0.05  # seconds that a take waits on the interactive lane
GRACE = 3.0  # seconds beyond the drain
BATCH_EVERY = 8  # every so many takes the batch lane goes first, so that it never starves

log = logging.getLogger("ominix.worker")


class EngineWorker(SimpleWorker):
    """An RQ worker that runs many jobs at once, as rows of its engine's batch."""

    job_class = StrictJob

    def __init__(
        self, entry: ModelEntry, settings: Settings, load: Callable[[], Engine], connection: Redis
    ) -> None:
        self.entry = entry
        self.settings = settings
        lanes = [queue_name(entry.id, "interactive"), queue_name(entry.id, "batch")]
        name = settings.worker_name or f"{entry.id}-{socket.gethostname()}-{os.getpid()}"
        super().__init__(
            [make_queue(lane, connection) for lane in lanes],
            name=name,
            connection=connection,
            serializer=JSONSerializer,
        )
        self.flights: Flights = {}
        self.slots = Slots(entry.max_concurrency)
        self.blobs = BlobStore(settings.blobs_dir)
        self.outlet = Outlet(
            connection, self.flights, self.blobs, settings.result_ttl, self._settle, self._abort
        )
        self.room = EngineRoom(load, self.outlet, settings.hang_timeout)
        self.draining = threading.Event()
        self._preparation = ThreadPoolExecutor(PREPARATION_THREADS, thread_name_prefix="preparation")
        self._takes = 0

    # --- the life of the process

    def run(self) -> None:
        """Load, take jobs until told to drain, drain. Raises what loading raised."""
        try:
            self._load()
            while not self.draining.is_set():
                if self.slots.wait(BLOCK) and (taken := self._take()):
                    self._begin(*taken)
            self._drain()
        finally:
            settle_worker(self.connection, self.name, self.settings)

    def _load(self) -> None:
        self.room.start()
        while not self.room.loaded.wait(0.1):
            if self.draining.is_set():
                return
        if self.room.failure:
            raise self.room.failure
        self.slots = Slots(self.room.engine.slots)
        self.outlet.engine = self.room.engine
        self.outlet.start()
        log.info("%s is ready: %d slots", self.entry.id, self.slots.count)

    def _drain(self) -> None:
        """Let what runs end; what has not after the limit goes back, or fails if it had spoken."""
        log.info("%s drains: %d jobs in flight", self.entry.id, len(self.flights))
        limit = time.monotonic() + self.settings.drain_timeout
        while self.flights and time.monotonic() < limit:
            time.sleep(0.02)

    def drain(self, *_: object) -> None:
        """The answer to SIGTERM and SIGINT; a second one ends the process where it stands."""
        if self.draining.is_set():
            os._exit(1)
        self.draining.set()
        # Redis may be away, and every wait for it longer than this one
        limit = threading.Timer(self.settings.drain_timeout + GRACE, os._exit, [1])
        limit.daemon = True
        limit.start()

    def stop(self) -> None:
        """Close the engine, if it was loaded."""
        if self.room.is_alive():
            self.room.stop()
            self.room.join(timeout=2)

    # --- intake

    def _take(self) -> tuple[Queue, str] | None:
        """The next job's id, moved to its queue's intermediate list, by the rule of the lanes."""
        interactive, batch = self.queues
        self._takes += 1
        batch_may = self.slots.free > min(self.settings.batch_reserve, self.slots.count - 1)
        if batch_may and self._takes % BATCH_EVERY == 0 and (job_id := self._move(batch)):
            return batch, job_id
        if job_id := self._move(interactive):
            return interactive, job_id
        if batch_may and (job_id := self._move(batch)):
            return batch, job_id
        job_id = self.connection.blmove(interactive.key, interactive.intermediate_queue_key, BLOCK)
        return (interactive, job_id.decode()) if job_id else None

    def _move(self, queue: Queue) -> str | None:
        job_id = self.connection.lmove(queue.key, queue.intermediate_queue_key)
        return job_id.decode() if job_id else None

    def _begin(self, queue: Queue, job_id: str) -> None:
        """Make a taken job ours in one transaction, then pass it on."""
        while older := self.flights.get(job_id):  # our lease ran out and the job came back to us
            self.outlet.fail(older, LeaseLost())
            time.sleep(BLOCK)
        try:
            flight = self._register(queue, job_id)
        except WatchError:
            log.warning("job %s went to another worker", job_id)
            return
        if flight is None:
            return
        self.flights[job_id] = flight
        if end := self._reason_not_to_run(flight):
            self.outlet.fail(flight, end)
            flight.land()
        else:
            self._preparation.submit(self._prepare, flight)

    def _register(self, queue: Queue, job_id: str) -> Flight | None:
        """Between the WATCH and the MULTI nobody else has touched the job."""
        with self.connection.pipeline() as pipeline:
            pipeline.watch(StrictJob.key_for(job_id))
            raw = pipeline.hgetall(StrictJob.key_for(job_id))
            if pipeline.lpos(queue.intermediate_queue_key, job_id) is None:
                raise WatchError(f"{job_id} was put back")
            try:
                job = restore_job(job_id, raw, self.connection)
            except ForgedJob as error:
                log.error("%s; dropped", error)
                pipeline.lrem(queue.intermediate_queue_key, 1, job_id)
                return None
            attempt = job.attempt + 1
            pipeline.multi()
            execution = Execution.create(job, self.settings.lease, pipeline, worker_name=self.name)
            job.prepare_for_execution(self.name, pipeline)
            pipeline.hset(job.key, "attempt", attempt)
            pipeline.lrem(queue.intermediate_queue_key, 1, job_id)
            pipeline.xadd(keys.STARTED, {"j": job_id}, maxlen=STARTED_LENGTH, approximate=True)
            self.set_state(WorkerStatus.BUSY, pipeline=pipeline)
            pipeline.execute()
        self.executions[execution.id] = execution
        return Flight(job, attempt, execution, self.slots)

    def _reason_not_to_run(self, flight: Flight) -> Exception | None:
        if self.connection.exists(keys.cancelled(flight.id)):
            return Cancelled("The job was cancelled.")
        if flight.attempt > 1 and self._fence(flight):
            return WorkerDied(f"The worker died while it ran job {flight.id}. Please send it again.")
        return None

    def _fence(self, flight: Flight) -> bool:
        """Shut out the attempts before this one. True if one of them had spoken."""
        events = keys.events(flight.id)
        last = self.connection.xrevrange(events, count=1)
        if last and parse_id(last[0][0])[1]:
            return True
        if not last or parse_id(last[0][0])[0] < flight.attempt:
            self.connection.xadd(events, {keys.FIELD: b""}, id=f"{flight.attempt}-0")
        return False

    def _prepare(self, flight: Flight) -> None:
        try:
            blob = str(self.blobs.path(flight.spec.blob)) if flight.spec.blob else None
            prepared = self.room.engine.prepare(flight.spec, blob)
        except Exception as error:  # a bad request, or a broken engine: this job's alone
            self.outlet.fail(flight, error)
            flight.land()
        else:
            self.room.add(flight, prepared)

    # --- what the other rooms ask for

    def cancel(self, job_id: str) -> None:
        """Stop a job of ours, wherever it is; any other id is ignored."""
        if (flight := self.flights.get(job_id)) and not flight.over:
            self.outlet.fail(flight, Cancelled("The job was cancelled."))
            self.room.abort(job_id)

    def renew_leases(self, pipeline: Pipeline) -> None:
        now = datetime.now(UTC)
        self.heartbeat(self.settings.lease + 60, pipeline=pipeline)
        for flight in list(self.flights.values()):
            registry = flight.job.started_job_registry
            flight.execution.heartbeat(registry, self.settings.lease, pipeline)
            flight.job.heartbeat(now, self.settings.lease, pipeline)

    def _abort(self, job_id: str) -> None:
        self.room.abort(job_id)

    def _settle(self, flight: Flight, end: End, pipeline: Pipeline) -> None:
        """RQ's bookkeeping for a job that has ended; its status went with the end itself."""
        flight.execution.delete(flight.job, pipeline)
        self.executions.pop(flight.execution.id, None)
        if isinstance(end, Done):
            self.increment_successful_job_count(pipeline)
        else:
            self.increment_failed_job_count(pipeline)
        took = timedelta(seconds=time.monotonic() - flight.taken)
        self.increment_total_working_time(took, pipeline)
