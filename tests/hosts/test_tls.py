"""What waiting does not mend in the way to a Redis with TLS is said at once."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import read_settings
from tests.hosts import tls
from tests.hosts.conftest import make_certificate, until
from workers import redis_state
from workers.startup import StartError


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a server with TLS and a certificate for 127.0.0.1, behind which there is no Redis."""
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    make_certificate(certificate, key, "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as nobody:
        port, target = free.getsockname()[1], nobody.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, tls.__file__, "127.0.0.1", str(port), str(certificate), str(key), str(target)],
        stderr=subprocess.DEVNULL,
    )
    until(lambda: listens(port))
    yield port
    server.kill()
    server.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("host", "options", "sentence"),
    [
        ("127.0.0.1", "", r"is refused \(self.signed certificate\); \?ssl_ca_certs=FILE"),
        ("localhost", "?ssl_ca_certs={folder}/ca.pem", r"is refused \(Hostname mismatch, .*'\)"),
        ("127.0.0.1", "?ssl_ca_certs=/no/such.pem", r"named in its URL cannot be read \(No such"),
        ("127.0.0.1", "?bogus=1", "cannot be used: .*'bogus'"),
    ],
)
def test_a_certificate_that_cannot_be_used_ends_the_wait(
    port: int, tmp_path: Path, host: str, options: str, sentence: str
):
    url = f"rediss://me:password@{host}:{port}{options.format(folder=tmp_path)}"
    with pytest.raises(StartError, match=sentence) as refusal:
        redis_state.wait_until_up(read_settings({}, redis_url=url), patience=20)
    assert "password" not in str(refusal.value)


def test_a_server_that_is_away_is_waited_for(port: int, tmp_path: Path):
    url = f"rediss://me:password@127.0.0.1:{port}?ssl_ca_certs={tmp_path}/ca.pem"
    assert not redis_state.wait_until_up(read_settings({}, redis_url=url), patience=0.5)
