"""What the tests of client libraries share: none of them may talk to anything but this machine."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

LOOPBACK = {None, "localhost", "127.0.0.1", "::1"}


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse to look up and to call other hosts, and fail afterwards: libraries that fetch price lists or
    send telemetry go on without."""
    refused: list[Any] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
            refused.append(address)
            raise ConnectionRefusedError(f"{address} is not this machine")
        return connect(self, address)

    def guarded_look_up(host: Any, *args: Any, **fields: Any) -> Any:
        if (host.decode() if isinstance(host, bytes) else host) not in LOOPBACK:
            refused.append(host)
            raise socket.gaierror(f"{host} is not this machine")
        return look_up(host, *args, **fields)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    assert refused == []
