"""A job in flight: what one worker knows of one job that it has taken."""

import threading
import time
from collections.abc import Callable

from rq.executions import Execution

from shared.jobs import JobSpec, Lane
from shared.queues import StrictJob
from shared.tasks import named


class Slots:
    """How many more jobs the engine takes. `show` is told when the first interactive one comes, and when the
    last one has gone."""

    def __init__(self, count: int, show: Callable[[bool], None] = lambda busy: None) -> None:
        self.count = count
        self._free = count
        self._interactive = 0
        self._show = show
        self._changed = threading.Condition()
        self.used = time.time()  # when one was last taken or given back

    @property
    def free(self) -> int:
        return self._free

    def wait(self, timeout: float) -> bool:
        """Whether there is a free slot, at the latest after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._free > 0, timeout)

    def take(self, lane: Lane) -> None:
        with self._changed:
            self._free -= 1
            self.used = time.time()
            self._count(lane, 1)

    def give(self, lane: Lane) -> None:
        with self._changed:
            self._free += 1
            self.used = time.time()
            self._count(lane, -1)
            self._changed.notify()

    def _count(self, lane: Lane, more: int) -> None:
        if lane == "interactive":
            self._interactive += more
            self._show(self._interactive > 0)


class Flight:
    """From a job's registration to its end. `attempt` and a counter make the ids of its events."""

    def __init__(self, job: StrictJob, attempt: int, execution: Execution, slots: Slots) -> None:
        self.job = job
        self.resumes = named(job.spec.task).RESUMES
        self.said: list[bytes] = []  # by the attempts before, until the job is prepared
        self.spec: JobSpec = job.spec
        self.attempt = attempt
        self.execution = execution
        self.taken = time.monotonic()
        self.deadline = self.taken + self.spec.timeout
        self.over = False  # its end is on its way: nothing more is said
        self._said = 0
        self._slots: Slots | None = slots
        slots.take(self.spec.lane)

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def stays(self) -> bool:
        """Whether no other worker can run it any more."""
        return bool(self._said) and not self.resumes

    def next_id(self) -> str:
        """The id of its next event."""
        self._said += 1
        return f"{self.attempt}-{self._said}"

    def show_life(self) -> None:
        """A job that resumes may take long in all: its limit is the time from one output to the next."""
        if self.resumes:
            self.deadline = time.monotonic() + self.spec.timeout

    def rest(self, seconds: float) -> None:
        """Its engine has waited for others: that does not count against its limit."""
        self.deadline += seconds

    def land(self) -> None:
        """Give the engine's slot back, once."""
        slots, self._slots = self._slots, None
        if slots:
            slots.give(self.spec.lane)


Flights = dict[str, Flight]
