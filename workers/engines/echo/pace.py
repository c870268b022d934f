"""The time that an engine without a model pretends to need."""

import ctypes
import time


class Pace:
    """A clock that ticks every `interval` seconds, however long the work between two ticks takes.

    Being late by more than an interval moves the clock instead of hurrying to catch up, as a real
    engine could not catch up either.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due = 0.0

    def start(self) -> None:
        """Begin after an idle time: the first tick is one interval from now."""
        self._due = time.monotonic()

    def wait(self) -> None:
        """Sleep until the next tick."""
        if not self._interval:
            return
        now = time.monotonic()
        self._due = max(self._due + self._interval, now)
        time.sleep(self._due - now)


def hang(seconds: float, hold_gil: bool) -> None:
    """Sleep, as a call into a driver does that never comes back."""
    if hold_gil:
        ctypes.PyDLL(None).usleep(min(int(seconds * 1e6), 2**32 - 1))  # PyDLL keeps the GIL
    else:
        time.sleep(seconds)
