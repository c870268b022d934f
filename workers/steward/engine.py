"""The steward as an engine: every job is an errand, and all of them are advanced in one thread, so that no
two ever decide about the same memory or the same files."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from redis.exceptions import ConnectionError, TimeoutError

from shared.events import Delta, Done, Event
from shared.jobs import JobSpec
from workers.engine import Output, Prepared

TICK = 0.05  # seconds between two looks at what is under way

log = logging.getLogger("ominix.steward")


class Errand(Protocol):
    """One job under way. Nothing in it waits: what takes long runs in a process or thread of its own."""

    def advance(self) -> Delta | Done | None:
        """What there is to say now, at last a Done. An exception ends the job."""

    def abort(self) -> None:
        """Stop, without a trace but for what a next attempt can use."""


class Steward:
    """`errands`: task name -> what makes the errand of a job."""

    def __init__(self, errands: Mapping[str, Callable[[JobSpec], Errand]], slots: int) -> None:
        self.slots = slots
        self._errands = errands
        self._running: dict[str, Errand] = {}

    def prepare(self, spec: JobSpec, file: str | None, said: Sequence[Delta] = ()) -> Prepared:
        return Prepared(spec, None)

    def has_room(self, prepared: Prepared) -> bool:
        return len(self._running) < self.slots

    def add(self, prepared: Prepared) -> None:
        spec = prepared.spec
        self._running[spec.id] = self._errands[spec.task](spec)

    def step(self) -> list[tuple[str, Output]]:
        time.sleep(TICK)
        outputs = [(job_id, _advance(errand)) for job_id, errand in list(self._running.items())]
        for job_id, output in outputs:
            if output and (output.last or output.error):
                del self._running[job_id]
        return [(job_id, output) for job_id, output in outputs if output]

    def abort(self, job_id: str) -> None:
        if errand := self._running.pop(job_id, None):
            errand.abort()

    def render(self, job_id: str, outputs: Iterable[Output]) -> list[Event]:
        return [output.payload for output in outputs if output.payload]

    def forget(self, job_id: str) -> None:
        pass

    def close(self) -> None:
        for errand in self._running.values():
            errand.abort()
        self._running.clear()


def _advance(errand: Errand) -> Output | None:
    try:
        event = errand.advance()
    except (ConnectionError, TimeoutError) as error:
        log.warning("Redis is away: %s; trying again", error)
        return None
    except Exception as error:
        return Output(error=error)
    return Output(event, last=isinstance(event, Done)) if event else None
