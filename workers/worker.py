"""One worker process: one model, one RQ worker, one engine thread. What is known of RQ's insides is here,
in `shared.endings` and in `workers.settle`."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError, WatchError
from rq import Queue
from rq.executions import Execution
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker
from rq.worker.base import WorkerStatus
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from shared import keys
from shared.blobs import blob_store
from shared.channel import STARTED_LENGTH, parse_id
from shared.errors import Cancelled, EngineError, TimedOut, WorkerDied
from shared.events import Delta, Done, End, decode
from shared.manifest import ModelEntry
from shared.queues import StrictJob, make_queue, queue_name
from shared.settings import Settings
from workers.affinity import Affinity
from workers.apis import Abandoned, Unreachable
from workers.engine import Engine
from workers.files import Files
from workers.flight import Flight, Flights, Slots
from workers.outlet import LeaseLost, Outlet
from workers.priority import Priority
from workers.returning import give_back
from workers.room import EngineRoom
from workers.settle import settle_worker
from workers.taken import CANCELLED, look_up

PREPARATION_THREADS = 2
BLOCK = 0.05  # seconds that a take waits on the interactive lane
GULP = 8  # jobs of one take at most: other replicas are to have some of a burst
PAUSE = 0.5  # seconds
WORKER_TTL = 20  # seconds; RQ derives the socket's timeout of 15 s from it
HUNG = 70  # exit status
GRACE = 3.0  # seconds beyond the drain
BATCH_EVERY = 8  # every so many takes the batch lane goes first, so that it never starves

log = logging.getLogger("ominix.worker")


class EngineWorker(SimpleWorker):
    """An RQ worker that runs many jobs at once, as rows of its engine's batch."""

    job_class = StrictJob

    def __init__(
        self,
        entry: ModelEntry,
        settings: Settings,
        load: Callable[[], Engine],
        connection: Redis,
        priority: Priority | None = None,
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
            worker_ttl=WORKER_TTL,
        )
        self.flights: Flights = {}
        self.priority = priority or Priority(1, None)
        self.slots = Slots(entry.max_concurrency)
        self.files = Files(settings, blob_store(settings), connection)
        self.outlet = Outlet(
            connection, self.flights, self.files, settings.result_ttl, self._settle, self._abort
        )
        self.room = EngineRoom(load, self.flights, self.outlet, settings.hang_timeout, self.priority)
        self.draining = threading.Event()
        self._drains_until: float | None = None  # monotonic seconds
        self._patient = False  # what would fail if it went back may take longer
        self._preparation = ThreadPoolExecutor(PREPARATION_THREADS, thread_name_prefix="preparation")
        self._preparing: set[Flight] = set()
        self._affinity = Affinity(entry.id, name, connection)
        self._takes = 0
        self._replicas = 1
        self._heard: deque[str] = deque(maxlen=1000)  # ids that were to be cancelled, ours or not

    # --- the life of the process

    def run(self) -> None:
        """Load, take jobs until told to drain, drain. Raises what loading raised."""
        try:
            self._load()
            while not self.draining.is_set():
                if (free := self.slots.wait(BLOCK)) and not self.files.waits():
                    self._work()
                self.priority.hurry = not free and self.priority.resting and self._is_awaited()
            self._drain()
        finally:
            settle_worker(self.connection, self.name, self.settings)

    def _is_awaited(self) -> bool:
        """Whether interactive jobs wait until one that runs here has ended."""
        with contextlib.suppress(ResponseError):
            return self.connection.llen(self.queues[0].key) > 0
        return False

    def _work(self) -> None:
        try:
            queue, job_ids = self._take()
            if job_ids:
                self._begin(queue, job_ids)
        except ResponseError as error:  # a full or read-only Redis: what was taken is put back
            log.error("Redis refuses: %s; trying again", error)
            time.sleep(PAUSE)

    def _load(self) -> None:
        self.room.start()
        while not self.room.loaded.wait(0.1):
            if self.draining.is_set():
                return
        if self.room.failure:
            raise self.room.failure
        self.slots = Slots(self.room.engine.slots, self.priority.show)
        self.outlet.engine = self.room.engine
        self.outlet.start()
        log.info("%s is ready: %d slots", self.entry.id, self.slots.count)

    def _drain(self) -> None:
        """Let what runs end; what has not after the limit goes back, or fails if it had spoken."""
        log.info("%s drains: %d jobs in flight", self.entry.id, len(self.flights))
        self.priority.hurry = True
        self._begin_drain()
        while self.flights and (time.monotonic() < self._drains_until or self._must_finish()):
            time.sleep(0.02)

    def _must_finish(self) -> bool:
        """Whether there is time, and a job that would fail if it went back."""
        return self._patient and any(flight.stays for flight in list(self.flights.values()))

    def drain(self, *_: object) -> None:
        """The answer to SIGTERM and SIGINT; a second one ends the process where it stands."""
        if self.draining.is_set() and not self._patient:
            os._exit(1)
        self._patient = False
        self._begin_drain()

    def leave(self, *_: object) -> None:
        """The answer to SIGUSR1: drain, without a hurry. No job fails for it, however long it takes."""
        if not self.draining.is_set():
            self._patient = True
            self._begin_drain()

    def _begin_drain(self) -> None:
        if self._drains_until is None:
            self._drains_until = time.monotonic() + self.settings.drain_timeout
            threading.Thread(target=self._give_up, daemon=True).start()
        self.draining.set()

    def _give_up(self) -> None:
        """Redis may be away as well, and every wait for it longer than a stop may take."""
        time.sleep(GRACE)
        while self._must_finish() or (self.flights and time.monotonic() < self._drains_until + GRACE):
            time.sleep(0.1)
        os._exit(1)

    def stop(self) -> None:
        """Close the engine, if it was loaded."""
        self.files.close()
        if self.room.is_alive():
            self.room.stop()
            self.room.join(timeout=2)

    # --- intake

    def _take(self) -> tuple[Queue, list[str]]:
        """The next jobs' ids, moved to their queue's intermediate list, by the rule of the lanes."""
        interactive, batch = self.queues
        free = self.slots.free
        batch_free = free - min(self.settings.batch_reserve, self.slots.count - 1)
        with self.connection.pipeline(transaction=False) as pipeline:
            pipeline.llen(interactive.key)
            pipeline.llen(batch.key)
            pipeline.scard(WORKERS_BY_QUEUE_KEY % interactive.name)
            waiting, batch_waiting, self._replicas = pipeline.execute()
        self._takes += 1
        if self._takes % BATCH_EVERY == 0 and min(batch_waiting, batch_free) > 0:
            return batch, self._move(batch, 1)
        if waiting:
            return interactive, self._move(interactive, min(waiting, free))
        if min(batch_waiting, batch_free) > 0:
            return batch, self._move(batch, min(batch_waiting, batch_free))
        job_id = self.connection.blmove(interactive.key, interactive.intermediate_queue_key, BLOCK)
        return interactive, [job_id.decode()] if job_id else []

    def _move(self, queue: Queue, count: int) -> list[str]:
        with self.connection.pipeline(transaction=False) as pipeline:
            for _ in range(min(count, GULP)):
                pipeline.lmove(queue.key, queue.intermediate_queue_key)
            return list(dict.fromkeys(job_id.decode() for job_id in pipeline.execute() if job_id))

    def _begin(self, queue: Queue, job_ids: list[str]) -> None:
        """Make taken jobs ours, then pass them on."""
        for job_id in job_ids:
            if older := self.flights.get(job_id):  # our lease ran out and the job came back to us
                self.outlet.fail(older, LeaseLost())
                while job_id in self.flights:
                    time.sleep(BLOCK)
        for flight, end in self._register(queue, job_ids):
            self.flights[flight.id] = flight
            if end := end or self._early_cancellation(flight):
                self.outlet.fail(flight, end)
                flight.land()
            else:
                self._preparation.submit(self._prepare, flight)
        self._affinity.wait(queue)

    def _register(self, queue: Queue, job_ids: list[str]) -> list[tuple[Flight, Exception | None]]:
        """Flights, each with a reason not to run if there is one. In one transaction, or, if somebody
        else has touched one of the jobs, in one each."""
        try:
            return self._register_at_once(queue, job_ids)
        except WatchError:
            if len(job_ids) == 1:
                log.warning("job %s went to another worker", job_ids[0])
                return []
            return [each for job_id in job_ids for each in self._register(queue, [job_id])]

    def _register_at_once(self, queue: Queue, job_ids: list[str]) -> list[tuple[Flight, Exception | None]]:
        registered: list[tuple[StrictJob, Execution, Exception | None]] = []
        with self.connection.pipeline() as pipeline:
            pipeline.watch(*map(StrictJob.key_for, job_ids))
            jobs = look_up(self.connection, queue, job_ids)
            away = self._of_others(queue, jobs)
            pipeline.multi()
            self._affinity.hand_back(queue, away, pipeline)
            for job, end in jobs:
                if job.id not in away:
                    registered.append((job, self._write_registration(queue, job, pipeline), end))
            if registered:
                self.set_state(WorkerStatus.BUSY, pipeline=pipeline)
            pipeline.execute()
        return [self._flight(*each) for each in registered]

    def _of_others(self, queue: Queue, jobs: list[tuple[StrictJob, Exception | None]]) -> list[str]:
        """Ids of jobs that another replica should have. Nobody waits for batch jobs as they are pushed: one
        that was handed back would only come again."""
        if self._replicas < 2 or queue.name != self.queues[0].name:
            return []
        return self._affinity.elsewhere(job for job, end in jobs if not end)

    def _write_registration(self, queue: Queue, job: StrictJob, pipeline: Pipeline) -> Execution:
        execution = Execution.create(job, self.settings.lease, pipeline, worker_name=self.name)
        job.prepare_for_execution(self.name, pipeline)
        pipeline.hset(job.key, "attempt", job.attempt + 1)
        pipeline.lrem(queue.intermediate_queue_key, 0, job.id)
        pipeline.xadd(keys.STARTED, {"j": job.id}, maxlen=STARTED_LENGTH, approximate=True)
        self._affinity.settle_in(job, pipeline)
        return execution

    def _flight(
        self, job: StrictJob, execution: Execution, end: Exception | None
    ) -> tuple[Flight, Exception | None]:
        self.executions[execution.id] = execution
        flight = Flight(job, job.attempt + 1, execution, self.slots)
        if flight.attempt > 1 and not self._fence(flight):
            end = WorkerDied(f"The worker died while it ran job {flight.id}. Please send it again.")
        return flight, end

    def _early_cancellation(self, flight: Flight) -> Exception | None:
        """One that was heard after the job was looked up and before it was in flight."""
        return Cancelled(CANCELLED) if flight.id in self._heard else None

    def _fence(self, flight: Flight) -> bool:
        """Shut out the attempts before this one, and take over what they have said. False if they had
        spoken and the task cannot go on from there."""
        events = keys.events(flight.id)
        with contextlib.suppress(ResponseError):  # it is there already
            self.connection.xadd(events, {keys.FIELD: b""}, id=f"{flight.attempt}-0")
        entries = self.connection.xrange(events)
        flight.said = [fields[keys.FIELD] for entry, fields in entries if all(parse_id(entry))]
        return flight.resumes or not flight.said

    def _prepare(self, flight: Flight) -> None:
        if flight.over:
            return flight.land()
        self._preparing.add(flight)
        try:
            said = [event for event in map(decode, flight.said) if isinstance(event, Delta)]
            prepared = self.room.engine.prepare(flight.spec, self.files.place(flight), said)
        except Abandoned:
            flight.land()
        except Unreachable as error:
            self._give_back(flight, error)
        except BaseException as error:  # a bad request, a broken engine, a panic: this job's alone
            self.outlet.fail(flight, error)
            flight.land()
        else:
            self.room.add(flight, prepared)
        finally:
            flight.said.clear()  # hours of speech are megabytes
            self._preparing.discard(flight)

    def _give_back(self, flight: Flight, why: Unreachable) -> None:
        """Its file cannot be had on this host: another worker may run it."""
        log.warning("job %s is given back: %s", flight.id, why)
        end: Exception = EngineError(f"No worker could get the audio of job {flight.id}. Send it again.")
        with contextlib.suppress(ResponseError):
            if give_back(self.connection, flight):
                end = LeaseLost()
        self.outlet.fail(flight, end)
        flight.land()

    # --- what the other rooms ask for

    def cancel(self, job_id: str) -> None:
        """Stop a job of ours, wherever it is; any other id is ignored."""
        self._heard.append(job_id)
        if (flight := self.flights.get(job_id)) and not flight.over:
            self.outlet.fail(flight, Cancelled(CANCELLED))
            self.room.abort(job_id)

    def expire(self) -> None:
        """End the jobs that ran past their limit, in whatever room they are."""
        now = time.monotonic()
        for flight in list(self.flights.values()):
            if now > flight.deadline and not flight.over:
                limit = f"The job {flight.id} ran past its limit of {flight.spec.timeout:g} s."
                self.outlet.fail(flight, TimedOut(limit))
        if any(now > each.deadline + self.settings.hang_timeout for each in list(self._preparing)):
            log.critical("a preparation hangs; ending the process, since its thread cannot be ended")
            os._exit(HUNG)

    def renew_leases(self, pipeline: Pipeline) -> None:
        now = datetime.now(UTC)
        self.heartbeat(self.settings.lease + 60, pipeline=pipeline)
        for flight in list(self.flights.values()):
            registry = flight.job.started_job_registry
            flight.execution.heartbeat(registry, self.settings.lease, pipeline)
            flight.job.heartbeat(now, self.settings.lease, pipeline)

    def _abort(self, job_id: str) -> None:
        self.room.abort(job_id)
        self.files.release(job_id)
        execution = self.flights[job_id].execution
        if self.executions.pop(execution.id, None):  # its lease was lost: nothing else takes it off the list
            with contextlib.suppress(ResponseError):
                self.connection.srem(execution.worker_executions_key, execution.composite_key)

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
