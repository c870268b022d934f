"""A job in flight: what one worker knows of one job that it has taken."""

import threading
import time

from rq.executions import Execution

from shared.jobs import JobSpec
from shared.queues import StrictJob
from shared.tasks import tasks


class Slots:
    """How many more jobs the engine takes."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._changed = threading.Condition()

    @property
    def free(self) -> int:
        return self._free

    def wait(self, timeout: float) -> bool:
        """Whether there is a free slot, at the latest after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._free > 0, timeout)

    def take(self) -> None:
        with self._changed:
            self._free -= 1

    def give(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify()


class Flight:
    """From a job's registration to its end. `attempt` and a counter make the ids of its events."""

    def __init__(self, job: StrictJob, attempt: int, execution: Execution, slots: Slots) -> None:
        self.job = job
        self.resumes = tasks()[job.spec.task].RESUMES
        self.said: list[bytes] = []  # by the attempts before, until the job is prepared
        self.spec: JobSpec = job.spec
        self.attempt = attempt
        self.execution = execution
        self.taken = time.monotonic()
        self.deadline = self.taken + self.spec.timeout
        self.over = False  # its end is on its way: nothing more is said
        self._said = 0
        self._slots: Slots | None = slots
        slots.take()

    @property
    def id(self) -> str:
        return self.spec.id

    def next_id(self) -> str:
        """The id of its next event."""
        self._said += 1
        return f"{self.attempt}-{self._said}"

    def show_life(self) -> None:
        """A job that resumes may take long in all: its limit is the time from one output to the next."""
        if self.resumes:
            self.deadline = time.monotonic() + self.spec.timeout

    def land(self) -> None:
        """Give the engine's slot back, once."""
        slots, self._slots = self._slots, None
        if slots:
            slots.give()


Flights = dict[str, Flight]
