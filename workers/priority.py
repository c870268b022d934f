"""Batch work makes way for interactive requests of other processes: they compute on the same machine.

It does so between two steps of its engine, and keeps a share of its time, so that it never starves: steps
of a quantum in all, then a rest that makes them that share. Few long hiccups cost a stream beside it
less than many short ones, because few of its tokens meet one. Any step may be as long as the longest of
late, so that is the quantum if it is longer.
"""

import logging
import math
import time
from pathlib import Path

from workers.presence import Presence

QUANTUM = 0.25  # seconds
FADING = 0.98  # a step: how fast a long one is forgotten
LINGER = 0.2  # seconds that the next request of somebody who asks again at once may take to come

log = logging.getLogger("ominix.priority")


class Priority:
    """One worker's side of it. `share` of its time is what batch work keeps; with 1 it never rests."""

    def __init__(self, share: float, presence: Presence | None) -> None:
        self.hurry = False  # somebody waits for the batch work itself to end
        self.resting = False  # or would be, but for the hurry
        self._presence = presence
        self._rests = presence is not None and share < 1
        self._ratio = (1 - share) / share if share else math.inf
        self._shares = False  # whether the last step was beside others' interactive work
        self._used = 0.0
        self._longest = QUANTUM
        self._seen = -math.inf  # when there was such work
        self._rest_until = time.monotonic() + QUANTUM * self._ratio

    def show(self, busy: bool) -> None:
        """Tell the others whether this process has interactive requests; from any thread."""
        if self._presence:
            self._presence.show(busy)

    def must_rest(self) -> bool:
        """Whether batch work has to wait now. Asked before each of its steps, in the engine thread."""
        if not self._rests:
            return False
        now = time.monotonic()
        if self._presence.others():
            self._seen = now
        self._shares = now - self._seen < LINGER
        self.resting = self._shares and now < self._rest_until
        return self.resting and not self.hurry

    def spend(self, seconds: float) -> None:
        """A step of batch work took so long. Alone it may: but the rest from then on is a full one."""
        self._longest = max(seconds, QUANTUM, self._longest * FADING)
        self._used = self._used + seconds if self._shares else self._longest
        if self._used >= self._longest:
            self._rest_until = time.monotonic() + self._used * self._ratio
            self._used = 0.0


def join(home: Path, share: float) -> Priority:
    """The priority of a worker process. Without a file to share it works as if it were alone."""
    try:
        return Priority(share, Presence(home / "run"))
    except OSError as error:
        log.warning("batch work will not make way for other models' requests: %s", error)
        return Priority(share, None)
