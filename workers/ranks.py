"""One model over several hosts: a process a host (a rank), all of one worker.

Rank 0 is the ordinary worker; it starts the others (`launch`), or `mlx.launch` starts them all. Either way
MLX finds in MLX_RANK and MLX_HOSTFILE who is who. What the others ("followers") have to do comes over a
connection of its own: a rank that waits inside of MLX for another keeps a core busy and may wait for ever,
one that waits in `recv` costs nothing, and hears at once when the other end is gone. Then it ends as well, so
that a worker is whole or not there at all.

The first connection is made at the port where rank 0 will listen for MLX afterwards: it is free until then,
and everybody knows it.
"""

import atexit
import contextlib
import ipaddress
import json
import logging
import os
import queue
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

LOST = 72  # exit status of a rank without the others
PORTS = range(20_000, 32_000)  # from which a system gives none to who connects
HEADER = 8  # bytes of a message's length
GLANCE = 0.2  # seconds
PATIENCE = 600.0  # seconds until a follower gives up to find rank 0
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPALIVE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # Linux and macOS

log = logging.getLogger("ominix.ranks")


class RanksError(RuntimeError):
    """The ranks of a model cannot be brought together; the message says why."""


class Place(NamedTuple):
    """Which rank this process is, of how many, and where rank 0 listens."""

    rank: int
    size: int
    address: tuple[str, int]


def place(environ: Mapping[str, str] = os.environ) -> Place | None:
    """As MLX's launcher says it; None for a process that is a whole worker. Raises RanksError."""
    if "MLX_RANK" not in environ:
        return None
    rank = int(environ["MLX_RANK"])
    if coordinator := environ.get("MLX_JACCL_COORDINATOR"):  # RDMA over Thunderbolt
        size = len(json.loads(Path(environ["MLX_IBV_DEVICES"]).read_text()))
        return Place(rank, size, _address(coordinator))
    if "MLX_HOSTFILE" not in environ:
        raise RanksError("Several ranks need the backend ring or jaccl: mlx.launch --backend ring.")
    hosts = json.loads(Path(environ["MLX_HOSTFILE"]).read_text().strip() or "[]")
    return Place(rank, len(hosts), _address(hosts[0][0])) if len(hosts) > 1 else None


def is_follower() -> bool:
    found = place()
    return found is not None and found.rank > 0


def launch(hosts: Sequence[str], command: Sequence[str]) -> list[subprocess.Popen]:
    """Start `command` as each rank but 0, which this process becomes: here, or through ssh.

    `hosts` are names for ssh, each the name or address too at which the others reach it.
    """
    first = free_ports(len(hosts))
    nodes = json.dumps([[f"{host.rpartition('@')[2]}:{first + n}"] for n, host in enumerate(hosts)])
    with tempfile.NamedTemporaryFile("w", prefix="ominix-ranks-", suffix=".json", delete=False) as file:
        file.write(nodes)
    atexit.register(Path(file.name).unlink, missing_ok=True)
    os.environ.update(MLX_RANK="0", MLX_HOSTFILE=file.name)
    started = []
    for rank, host in enumerate(hosts[1:], start=1):
        if _is_here(host, hosts[0]):
            own = {"MLX_RANK": f"{rank}", "OMINIX_SUPERVISOR_PID": f"{os.getpid()}"}
            process = subprocess.Popen(command, env=os.environ | own, stdin=subprocess.DEVNULL)
        else:
            script = _script(rank, nodes, command)
            ssh = ["ssh", "-tt", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", host, script]
            process = subprocess.Popen(ssh, stdin=subprocess.PIPE)
        started.append(process)
    return started


class Followers:
    """Rank 0's connections. `gather` waits until all ranks are ready."""

    def __init__(self, place: Place, started: Sequence[subprocess.Popen] = ()) -> None:
        self.size = place.size
        self._started = list(started)
        self._closing = False
        self._ready = queue.SimpleQueue[int]()
        self._connections: dict[int, socket.socket] = {}
        self._listener = socket.socket()
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):  # MLX listens there next
            self._listener.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            self._listener.bind(place.address)
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            where = "{}:{}".format(*place.address)
            raise RanksError(f"hosts: nothing can listen at {where} ({error.strerror}).") from error
        self._listener.settimeout(GLANCE)

    def gather(self) -> None:
        """Raises RanksError if one that was started ends before it has connected."""
        with self._listener:
            while len(self._connections) < self.size - 1:
                self._accept()
                for rank, process in enumerate(self._started, start=1):
                    if process.poll() is not None and rank not in self._connections:
                        raise RanksError(f"Rank {rank} has ended with status {process.returncode}.")
        for _ in self._connections:
            self._ready.get()

    def connected(self) -> None:
        """Of all ranks MLX knows the others: what `launch` has written for it is not needed any more."""
        if self._started:
            Path(os.environ["MLX_HOSTFILE"]).unlink(missing_ok=True)

    def tell(self, message: bytes) -> None:
        framed = len(message).to_bytes(HEADER, "big") + message
        for connection in self._connections.values():
            connection.sendall(framed)

    def close(self) -> None:
        """The others are to end; nothing can be told any more."""
        self._closing = True
        with contextlib.suppress(OSError):  # those that have heard it may be gone already
            self.tell(b"")
            for connection in self._connections.values():
                connection.shutdown(socket.SHUT_WR)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except TimeoutError:
            return
        connection.settimeout(GLANCE)
        try:
            rank = int.from_bytes(connection.recv(1), "big")
        except OSError:
            rank = 0
        if not 0 < rank < self.size or rank in self._connections:
            connection.close()
            return
        connection.settimeout(None)
        _keep(connection)
        self._connections[rank] = connection
        log.info("rank %d of %d has come", rank, self.size)
        threading.Thread(target=self._watch, args=(rank, connection), daemon=True).start()

    def _watch(self, rank: int, connection: socket.socket) -> None:
        """A follower says one word, when it is ready; what comes after that is its end."""
        try:
            with connection:
                while connection.recv(1):
                    self._ready.put(rank)
        except OSError as error:
            log.warning("rank %d: %s", rank, error)
        if not self._closing:
            _end(f"rank {rank} is gone, and with it a part of the model")


class Link:
    """A follower's connection to rank 0. Raises RanksError if it is not to be found."""

    def __init__(self, place: Place) -> None:
        self._messages = queue.SimpleQueue[bytes | None]()
        self._connection = _connect(place.address)
        _keep(self._connection)
        self._connection.sendall(bytes([place.rank]))
        threading.Thread(target=self._listen, daemon=True).start()

    def ready(self) -> None:
        self._connection.sendall(b"!")

    def receive(self) -> bytes | None:
        """What rank 0 says next; None when it needs no ranks any more."""
        return self._messages.get()

    def _listen(self) -> None:
        try:
            with self._connection, self._connection.makefile("rb") as stream:
                while header := stream.read(HEADER):
                    if not (message := stream.read(int.from_bytes(header, "big"))):
                        self._messages.put(None)
                        return
                    self._messages.put(message)
        except OSError as error:
            log.warning("rank 0: %s", error)
        _end("rank 0 is gone")


def _connect(address: tuple[str, int]) -> socket.socket:
    parent, limit = os.getppid(), time.monotonic() + PATIENCE
    while os.getppid() == parent and time.monotonic() < limit:
        try:
            connection = socket.create_connection(address, timeout=5)
        except OSError:
            time.sleep(GLANCE)
        else:
            connection.settimeout(None)
            return connection
    raise RanksError(f"Rank 0 does not answer at {address[0]}:{address[1]}.")


def _keep(connection: socket.socket) -> None:
    """No message may wait for the next, and a cable that was pulled is noticed within half a minute."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if option := getattr(socket, name, None):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _end(why: str) -> NoReturn:
    """From any thread, whatever the others do: inside of MLX a lost rank may be waited for for ever."""
    log.critical("%s; ending the process", why)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(LOST)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _is_here(host: str, own: str) -> bool:
    if host in (own, "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _script(rank: int, nodes: str, command: Sequence[str]) -> str:
    """For the shell of another host, which has OminiX in the same folder."""
    return (
        f"cd {shlex.quote(os.getcwd())} 2>/dev/null; "
        f"file=$(mktemp) && printf %s {shlex.quote(nodes)} > $file && "
        f"MLX_RANK={rank} MLX_HOSTFILE=$file exec {shlex.join(command)}"
    )


def free_ports(count: int) -> int:
    """The first of so many in a row that nobody here listens at."""
    while True:
        first = PORTS.start + secrets.randbelow(len(PORTS) - count)
        if all(map(_is_free, range(first, first + count))):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
