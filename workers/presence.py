"""What the worker processes of one machine let each other know, without asking anybody.

A file of a few bytes a process, one for each signal, that all worker processes of one home map into their
memory. Each holds a lock on its own place, which the kernel takes back however the process ends: a
place that nobody locks does not count. So there is no process id that another process could get, and
nothing to clean up.

Locks of a file are a process's: one Presence of a folder in each process, and nobody else may open
the file there, because closing it would let go of the lock.
"""

import fcntl
import mmap
import os
from enum import IntEnum
from pathlib import Path

PLACES = 1024  # processes at once
ON = b"\x01"
FILE = "interactive"


class Signal(IntEnum):
    """Of a process: it has interactive requests, in whatever room; its engine computes a step of such; its
    batch work has its turn."""

    REQUESTS = 0
    STEP = 1
    TURN = 2


class Presence:
    """Raises OSError if the file cannot be shared, or has no place left."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o600)
        size = PLACES * len(Signal)
        if os.fstat(self._file).st_size < size:
            os.ftruncate(self._file, size)
        self._bytes = mmap.mmap(self._file, size)
        self._own = next((place for place in range(PLACES) if self._lock(place)), None)
        if self._own is None:
            raise OSError(f"{folder / FILE} has no place left: {PLACES} workers run")
        self._wipe(self._own)

    def show(self, signal: Signal, on: bool) -> None:
        """Tell the others; from any thread."""
        self._bytes[signal * PLACES + self._own] = on

    def others(self, signal: Signal) -> bool:
        """Whether another process shows it. Costs a microsecond."""
        start = signal * PLACES
        found = self._bytes.find(ON, start, start + PLACES)
        while found >= 0:
            place = found - start
            if place != self._own and self._is_held(place):
                return True
            found = self._bytes.find(ON, found + 1, start + PLACES)
        return False

    def _wipe(self, place: int) -> None:
        for signal in Signal:
            self._bytes[signal * PLACES + place] = False

    def _is_held(self, place: int) -> bool:
        """Whether its process lives; what a dead one left is wiped off."""
        if not self._lock(place):
            return True
        self._wipe(place)
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        return False

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):  # which of the two is the system's choice
            return False
        return True
