"""Which worker processes of this machine have interactive requests, told without asking anybody.

A file of one byte a process that all worker processes of one home map into their memory: 1 while the
process has an interactive request, in whatever room. Each holds a lock on its own byte, which the kernel
takes back however the process ends: a byte that nobody locks does not count. So there is no process id
that another process could get, and nothing to clean up.

Locks of a file are a process's: one Presence of a folder in each process, and nobody else may open
the file there, because closing it would let go of the lock.
"""

import fcntl
import mmap
import os
from pathlib import Path

PLACES = 1024  # processes at once
BUSY = b"\x01"
FILE = "interactive"


class Presence:
    """Raises OSError if the file cannot be shared, or has no place left."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o600)
        if os.fstat(self._file).st_size < PLACES:
            os.ftruncate(self._file, PLACES)
        self._bytes = mmap.mmap(self._file, PLACES)
        self._own = next((place for place in range(PLACES) if self._lock(place)), None)
        if self._own is None:
            raise OSError(f"{folder / FILE} has no place left: {PLACES} workers run")
        self.show(False)

    def show(self, busy: bool) -> None:
        """Tell the others whether this process has interactive requests; from any thread."""
        self._bytes[self._own] = busy

    def others(self) -> bool:
        """Whether another process has any. Costs a microsecond."""
        place = self._bytes.find(BUSY)
        while place >= 0:
            if place != self._own and self._is_held(place):
                return True
            place = self._bytes.find(BUSY, place + 1)
        return False

    def _is_held(self, place: int) -> bool:
        """Whether its process lives; what a dead one left is wiped off."""
        if not self._lock(place):
            return True
        self._bytes[place] = False
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        return False

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):  # which of the two is the system's choice
            return False
        return True
