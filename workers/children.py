"""A child process that is started again when it dies."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Protocol

import msgspec

WORDS = 200  # characters of a child's last line that are kept as the reason of its death
LEAVE = signal.SIGUSR1  # says: nobody is in a hurry; SIGTERM says that the whole system stops
Log = Callable[[str, str], None]  # (name, line)


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before starting again, in seconds.

    Doubles from `first` to `cap`; a child that lived for `steady` starts from `first` again. After
    `hopeless` quick deaths it counts as failed, though it is still tried.
    """

    first: float = 0.1
    cap: float = 30.0
    steady: float = 60.0
    hopeless: int = 5

    def delay(self, failures: int) -> float:
        return min(self.cap, self.first * 2 ** min(failures - 1, 30))


class Process(Protocol):
    """What a child needs of `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...


class Child:
    """One process of a system: its command, and what has become of it.

    `model` is set for workers only: each start then gets a fresh name, in OMINIX_WORKER_NAME. One that is
    told to leave may take `patience` seconds for what it runs; a `retired` one is not started again.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        model: str = "",
        patience: float = 0.0,
        backoff: Backoff | None = None,
        log: Log | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.patience = patience
        self.retired = False
        self.backoff = backoff or Backoff()
        self.worker_name = ""
        self.process: Process | None = None
        self.failures = 0
        self.last_words = ""
        self._command = list(command)
        self._environ = dict(environ)
        self._log = log or print_line
        self._started = 0.0
        self._due = 0.0
        self._leaves_by: float | None = None  # monotonic; it has been told to leave

    @property
    def running(self) -> bool:
        return self.process is not None

    @property
    def hopeless(self) -> bool:
        return self.failures >= self.backoff.hopeless

    def start(self) -> None:
        """Start the process in a session of its own, so that the terminal's Ctrl-C passes it by."""
        self._started = time.monotonic()
        environ = dict(self._environ)
        if self.model:
            self.worker_name = environ["OMINIX_WORKER_NAME"] = f"{self.name}-{secrets.token_hex(4)}"
        try:
            process = subprocess.Popen(
                self._command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            self._died(f"it cannot be started: {error.strerror}")
            return
        self.process = process
        threading.Thread(target=self._listen, args=(process.stdout,), daemon=True).start()

    def adopt(self, process: Process) -> None:
        """Look after a process that somebody else started."""
        self._started = time.monotonic()
        self.process = process

    def ended(self) -> int | None:
        """The exit status if the process has ended since the last call; None if not."""
        status = self.process.poll() if self.process else None
        if status is not None:
            self.process = None
            if self._leaves_by is None:
                self._died(self.last_words or describe(status))
            else:
                self._leaves_by, self.failures, self._due = None, 0, 0.0
        return status

    def due(self) -> float:
        """Seconds until it should be started; 0 or less: now. Only for one that is not running."""
        return self._due - time.monotonic()

    @property
    def leaving(self) -> bool:
        """Whether it runs, and has been told to leave."""
        return self._leaves_by is not None

    def leave(self) -> None:
        """Have it finish what it runs and end; it is then started again at once, unless it has `retired`."""
        if isinstance(self.process, subprocess.Popen) and not self.leaving:
            self._leaves_by = time.monotonic() + self.patience
            self.process.send_signal(LEAVE)

    def hurry(self) -> None:
        """Kill it if it should have left by now."""
        if self.leaving and time.monotonic() > self._leaves_by:
            self.kill()

    def terminate(self) -> None:
        if self.process:
            self.process.terminate()

    def kill(self) -> None:
        """End it at once, with whatever it started itself."""
        if self.process:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # macOS refuses for a group of zombies
                pass

    def _died(self, why: str) -> None:
        lived = time.monotonic() - self._started
        self.failures = 1 if lived >= self.backoff.steady else self.failures + 1
        self.last_words = why
        self._due = time.monotonic() + self.backoff.delay(self.failures)

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            for raw in pipe:
                line = raw.decode(errors="replace").rstrip()
                if line:
                    self.last_words = line.strip()[:WORDS]
                    self._log(self.name, line)


def describe(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"it ended with status {status}"
    try:
        return f"it was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was ended by signal {-status}"


def print_line(name: str, line: str) -> None:
    sys.stderr.write(f"{name:<16} | {line}\n")
    sys.stderr.flush()
