"""The outlet: outputs become events, events become stream entries, finished jobs are settled in RQ."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

from shared import endings, keys
from shared.blobs import BlobStore
from shared.errors import EngineError, OminixError
from shared.events import Done, End, Event, Failed, encode
from workers.engine import Engine, Output
from workers.files import Files
from workers.flight import Flight, Flights

PAUSE = 0.5  # seconds
BACKLOG = 100_000  # outputs; only an outage of Redis gets there, and then the engine waits

log = logging.getLogger("ominix.outlet")


class LeaseLost(Exception):
    """The job is another attempt's now: drop it without a word."""


class Outlet(threading.Thread):
    """All that the engine made since the last round leaves in one pipeline.

    `settle(flight, end, pipeline)` adds RQ's own bookkeeping; `abort` stops a row whose job has ended.
    """

    def __init__(
        self,
        redis: Redis,
        flights: Flights,
        blobs: BlobStore | Files,
        result_ttl: int,
        settle: Callable[[Flight, End, Pipeline], None],
        abort: Callable[[str], None],
    ) -> None:
        super().__init__(name="outlet", daemon=True)
        self._redis = redis
        self._flights = flights
        self._blobs = blobs
        self._result_ttl = result_ttl
        self._settle = settle
        self._abort = abort
        self._outputs: list[tuple[Flight, Output]] = []
        self._news = threading.Condition()
        self.engine: Engine | None = None  # set before the first output of it

    def put(self, outputs: Iterable[tuple[Flight, Output]]) -> None:
        """Hand over outputs; from any thread."""
        with self._news:
            self._outputs += outputs
            self._news.notify_all()
            self._news.wait_for(lambda: len(self._outputs) < BACKLOG)

    @property
    def is_full(self) -> bool:
        """Whether `put` would wait."""
        return len(self._outputs) >= BACKLOG

    def fail(self, flight: Flight, error: Exception) -> None:
        self.put([(flight, Output(error=error))])

    def run(self) -> None:
        while True:
            self._send(self._take())

    def _take(self) -> dict[Flight, list[Output]]:
        """What there is, by job: several outputs of one job become one event."""
        with self._news:
            self._news.wait_for(lambda: self._outputs)
            outputs, self._outputs = self._outputs, []
            self._news.notify_all()
        by_flight: dict[Flight, list[Output]] = {}
        for flight, output in outputs:
            by_flight.setdefault(flight, []).append(output)
        return by_flight

    def _send(self, by_flight: dict[Flight, list[Output]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        spoken: list[tuple[int, Flight]] = []
        ended: list[tuple[int, Flight, End]] = []
        for flight, outputs in by_flight.items():
            if not flight.over and any(isinstance(output.error, LeaseLost) for output in outputs):
                self._lose(flight)
            for event in () if flight.over else self._render(flight, outputs):
                if isinstance(event, End):
                    flight.over = True
                    ended.append((len(pipeline), flight, event))
                    endings.finish_running(pipeline, flight.job, flight.attempt, event, self._result_ttl)
                    self._settle(flight, event, pipeline)
                else:
                    spoken.append((len(pipeline), flight))
                    pipeline.xadd(keys.events(flight.id), {keys.FIELD: encode(event)}, id=flight.next_id())
        if not len(pipeline):
            return
        replies = self._execute(pipeline)
        self._look_for_lost(replies, spoken)
        for index, flight, end in ended:
            self._part(flight)
            if replies[index] == 1:  # else the job is another attempt's, and so is its blob
                self._blobs.delete(flight.spec.blob)
                log_end(flight, end)

    def _execute(self, pipeline: Pipeline) -> list[Any]:
        """The replies, once Redis has taken every write: a full or read-only one is asked again. That
        says nothing twice, since the ids of events are fixed."""
        commands = list(pipeline.command_stack)
        while True:
            replies = pipeline.execute(raise_on_error=False)
            refusal = next((reply for reply in replies if is_refusal(reply)), None)
            if refusal is None:
                return replies
            log.error("Redis refuses events: %s; trying again", refusal)
            time.sleep(PAUSE)
            pipeline.command_stack = list(commands)

    def _render(self, flight: Flight, outputs: list[Output]) -> list[Event]:
        error = next((output.error for output in outputs if output.error), None)
        rendered = [output for output in outputs if not output.error]
        events: list[Event] = []
        try:
            if rendered:
                flight.show_life()
                events = self.engine.render(flight.id, rendered)
        except Exception as raised:  # whatever a detokenizer raises costs this job alone
            error = raised
        if error and not (events and isinstance(events[-1], End)):
            events = [*events, Failed.of(told(error, flight.id))]
        return events

    def _look_for_lost(self, replies: list[Any], spoken: list[tuple[int, Flight]]) -> None:
        """A refused event means that another attempt owns the job, or that we said it twice."""
        refused = {flight for index, flight in spoken if isinstance(replies[index], ResponseError)}
        for flight in refused:
            owner = self._redis.hget(flight.job.key, "attempt")
            if owner != str(flight.attempt).encode() and not flight.over:
                log.warning("job %s is another attempt's now; dropped", flight.id)
                self._lose(flight)

    def _lose(self, flight: Flight) -> None:
        flight.over = True
        self._part(flight)

    def _part(self, flight: Flight) -> None:
        if self._flights.get(flight.id) is flight:
            self._abort(flight.id)
            self.engine.forget(flight.id)
            del self._flights[flight.id]


def is_refusal(reply: Any) -> bool:
    """An error that is not about an event's id."""
    return isinstance(reply, ResponseError) and "equal or smaller" not in str(reply)


def log_end(flight: Flight, end: End) -> None:
    took = time.monotonic() - flight.taken
    if isinstance(end, Done):
        log.debug("job %s: done after %.2f s", flight.id, took)
    else:
        log.info("job %s: %s after %.2f s", flight.id, end.code, took)


def told(error: Exception, job_id: str) -> OminixError:
    """What the client is told of an error: never more than its kind if it is not one of ours."""
    if isinstance(error, OminixError):
        return error
    log.error("job %s failed", job_id, exc_info=error)
    return EngineError(f"The engine failed in job {job_id} ({type(error).__name__}).")
