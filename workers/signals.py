"""Signals as something to wait for: no code runs inside a signal."""

import contextlib
import os
import select
import signal
from types import FrameType, TracebackType

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """From entering to leaving it, SIGTERM, SIGINT and SIGHUP are counted in `stops`, and the death
    of a child ends a wait. For the main thread."""

    def __init__(self) -> None:
        self.stops = 0

    def __enter__(self) -> "Signals":
        self._reading, self._writing = os.pipe()
        for end in (self._reading, self._writing):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _noticed) for number in (*STOPS, signal.SIGCHLD)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._reading)
        writing, self._writing = self._writing, -1
        os.close(writing)

    def poke(self) -> None:
        """End a wait; from any thread."""
        with contextlib.suppress(OSError):  # nobody waits any more, or the pipe is full of pokes
            os.write(self._writing, b"\0")

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as a signal has come."""
        select.select([self._reading], [], [], max(0.0, seconds))
        try:
            came = os.read(self._reading, 256)
        except BlockingIOError:
            return
        self.stops += sum(number in STOPS for number in came)


def _noticed(number: int, frame: FrameType | None) -> None:
    """The number is written to the pipe before this is called."""
