"""Two hosts on one machine: a network namespace each, a cable between them, and a host name each."""

import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
NAMES = """hostname "$1"; shift; test -z "$HIDDEN" || mount -t tmpfs none "$HIDDEN"; exec "$@" """


class Host:
    """`name` is its host name, `address` its own on the cable."""

    def __init__(self, name: str, address: str, space: str, port: str) -> None:
        self.name = name
        self.address = address
        self.space = space
        self._port = port  # of the cable

    def start(self, *command: str, hidden: Path | None = None, **options: object) -> subprocess.Popen:
        """A process of this host, for which the folder `hidden` is empty."""
        environ = dict(options.pop("env", os.environ)) | {"HIDDEN": str(hidden or "")}
        inside = ["ip", "netns", "exec", self.space, "unshare", "--uts", "--mount", "sh", "-ec", NAMES, "sh"]
        return subprocess.Popen([*inside, self.name, *command], env=environ, **options)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread on that host's network; what it connects stays there."""
        libc = ctypes.CDLL(None, use_errno=True)
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.space}", os.O_RDONLY)
        try:
            _check(libc.setns(there, CLONE_NEWNET))
            yield
        finally:
            _check(libc.setns(before, CLONE_NEWNET))
            os.close(before)
            os.close(there)

    def cable(self, state: str) -> None:
        """Pull it out ("down") or put it in ("up")."""
        ip("-n", self.space, "link", "set", self._port, state)


@contextmanager
def two_hosts(first: str, second: str) -> Iterator[tuple[Host, Host]]:
    tag = secrets.token_hex(3)
    hosts = [Host(name, f"10.99.7.{number}", f"ominix-{tag}-{number}", f"om{tag}{number}")
             for number, name in enumerate((first, second), 1)]  # fmt: skip
    made = []
    try:
        for host in hosts:
            ip("netns", "add", host.space)
            made.append(host.space)
            ip("-n", host.space, "link", "set", "lo", "up")
        one, two = hosts
        ip("-n", one.space, "link", "add", one._port, "type", "veth", "peer", two._port, "netns", two.space)
        for host in hosts:
            ip("-n", host.space, "address", "add", f"{host.address}/24", "dev", host._port)
            host.cable("up")
        yield one, two
    finally:
        for space in made:  # the cable goes with them
            ip("netns", "delete", space)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def impossible() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if not os.path.isdir("/proc/self/ns"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces are root's to make"
    name = f"ominix-{secrets.token_hex(3)}"
    try:
        ip("netns", "add", name)
        ip("netns", "delete", name)
    except FileNotFoundError:
        return "there is no `ip`; install iproute2"
    except subprocess.CalledProcessError:
        return "this machine's administrator allows no network namespaces"
    return ""


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "setns failed")
