"""Batch work makes way for interactive requests of other processes: they compute on the same machine.

It does so between two steps of its engine, and keeps a share of its time, so that it never starves: steps
of a quantum in all, then a rest that makes them that share. Few long hiccups cost a stream beside it
less than many short ones, because few of its tokens meet one.

The quantum is a turn: it begins when a step of interactive work beside it has ended, and the next such step
waits for its end, each a moment at most. Two that compute at once take longer for both: a share of the time
would be less than that share of the work, and more tokens would be late.
"""

import logging
import math
import time
from pathlib import Path

from workers.presence import Presence, Signal

QUANTUM = 0.25  # seconds of a turn, at least; it ends with the step that is then under way
LONGEST = 2.0  # seconds that a step counts for at most: one may compile kernels, once
PATIENCE = 1.0  # seconds at most that a turn waits for a step, and a step for a turn
GLANCE = 0.002  # seconds between two looks whether it has ended
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
        self._seen = -math.inf  # when there was such work
        self._has_turn = False
        self._ignores = False  # a turn that has taken too long
        self._rest_until = time.monotonic() + QUANTUM * self._ratio

    def show(self, busy: bool) -> None:
        """Tell the others whether this process has interactive requests; from any thread."""
        if self._presence:
            self._presence.show(Signal.REQUESTS, busy)

    def must_rest(self) -> bool:
        """Whether batch work has to wait now. Asked before each of its steps, in the engine thread."""
        if not self._rests:
            return False
        now = time.monotonic()
        if self._presence.others(Signal.REQUESTS):
            self._seen = now
        self._shares = now - self._seen < LINGER
        self.resting = self._shares and now < self._rest_until
        return self.resting and not self.hurry

    def begin(self, batch: bool) -> None:
        """A step begins, in the engine thread. `batch`: of batch work alone."""
        if not self._rests:
            return
        if not batch:
            self.leave()
            self._begin_interactive()
        elif not self._shares or self.resting:
            self.leave()
        elif not self._has_turn:
            self._has_turn = True
            self._presence.show(Signal.TURN, True)
            self._await(Signal.STEP)

    def end(self, batch: bool, seconds: float) -> None:
        """The step is over, and took so long. Alone batch work may; but the next rest is then a full one."""
        if not self._rests:
            return
        if not batch:
            self._presence.show(Signal.STEP, False)
            return
        seconds = min(seconds, LONGEST)
        self._used = self._used + seconds if self._shares else max(seconds, QUANTUM)
        if self._used >= QUANTUM:
            self._rest_until = time.monotonic() + self._used * self._ratio
            self._used = 0.0
            self.leave()

    def leave(self) -> None:
        """The turn is over, if it was one: nothing is left to do."""
        if self._has_turn:
            self._has_turn = False
            self._presence.show(Signal.TURN, False)

    def _begin_interactive(self) -> None:
        self._presence.show(Signal.STEP, True)
        if not self._presence.others(Signal.TURN):
            self._ignores = False
        elif not self._ignores:
            self._presence.show(Signal.STEP, False)
            self._ignores = not self._await(Signal.TURN)  # one that does not end is waited for once
            self._presence.show(Signal.STEP, True)

    def _await(self, signal: Signal) -> bool:
        """Wait until nobody else shows it. False if that takes too long."""
        limit = time.monotonic() + PATIENCE
        while self._presence.others(signal):
            if time.monotonic() > limit:
                return False
            time.sleep(GLANCE)
        return True


def join(home: Path, share: float) -> Priority:
    """The priority of a worker process. Without a file to share it works as if it were alone."""
    try:
        return Priority(share, Presence(home / "run"))
    except OSError as error:
        log.warning("batch work will not make way for other models' requests: %s", error)
        return Priority(share, None)
