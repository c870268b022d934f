"""What is checked before anything is started, each with a sentence that says what to do."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PORT_PATIENCE = 2.0  # seconds in which the API of a supervisor that was killed lets go of its port


class StartError(RuntimeError):
    """OminiX cannot start; the message is the sentence for the person who started it."""


def make_private(folder: Path) -> Path:
    """The folder, made 0700 if it is not there. Raises StartError if it belongs to somebody else."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    found = folder.lstat()
    if found.st_uid != os.getuid() or folder.is_symlink():
        raise StartError(f"{folder} is not a folder of yours; remove it or set TMPDIR or OMINIX_HOME.")
    folder.chmod(0o700)
    return folder


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold home/serve.lock, which ends with the process. Raises StartError naming who holds it."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(home / "serve.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StartError(
                f"OminiX is already running on {home} (process {holder}); "
                "stop it first, or set OMINIX_HOME to another folder."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def free_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. Raises StartError if another program has it."""
    deadline = time.monotonic() + PORT_PATIENCE
    while True:
        try:
            return _try_port(host, port)
        except OSError as error:
            if time.monotonic() > deadline:
                raise StartError(_port_sentence(host, port, error)) from error
        time.sleep(0.1)


def _try_port(host: str, port: int) -> int:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen()  # Linux lets two bind with SO_REUSEADDR as long as neither listens
        return probe.getsockname()[1]


def _port_sentence(host: str, port: int, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"The host {host!r} is not an address of this machine."
    if isinstance(error, PermissionError):
        return f"Port {port} needs more rights than yours; choose one above 1023, such as --port 8080."
    return f"{host}:{port} cannot be used ({error.strerror}); choose another port, such as --port {port + 1}."
