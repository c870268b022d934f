"""A system on the host "mini", with a Valkey of its own behind TLS, that "studio" may join as a worker."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import redis

from shared import keys
from shared.queues import StrictJob
from tests.hosts import tls
from tests.hosts.namespaces import Host, impossible, two_hosts
from workers import embedded

ROOT = Path(__file__).parents[2]
SECRET = "p/ss-of-studio"
MODELS = """
[[model]]
id = "echo"
engine = "echo"
max_concurrency = 4
options = { step_ms = 150 }
"""
VALKEY = """
port 6379
bind 127.0.0.1
unixsocket {folder}/valkey.sock
dir {folder}
appendonly yes
maxmemory-policy noeviction
user admin on >secret-of-admin ~* &* +@all
"""


def until(claim: Callable[[], object], seconds: float = 30.0, what: str = "") -> object:
    """Wait until `claim` is true, and return what it said."""
    limit = time.monotonic() + seconds
    while not (said := claim()):
        assert time.monotonic() < limit, what or f"not within {seconds} s"
        time.sleep(0.05)
    return said


def make_certificate(certificate: Path, key: Path, address: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=mini",
         "-addext", f"subjectAltName=IP:{address}", "-addext", "keyUsage=digitalSignature,keyCertSign"],
        check=True, capture_output=True,
    )  # fmt: skip


def users() -> str:
    """The users that docs/own-redis.conf recommends."""
    lines = (ROOT / "docs" / "own-redis.conf").read_text().splitlines()
    off, mini, studio = (line for line in lines if line.startswith("user "))
    return "\n".join([off, mini.replace("PASSWORD", "secret-of-mini"), studio.replace("PASSWORD", SECRET)])


class System:
    """The processes of both hosts, each with its log; `mini` has Valkey, the API and the reaper."""

    def __init__(self, folder: Path, mini: Host, studio: Host) -> None:
        self.mini, self.studio = mini, studio
        self.homes = {host.name: folder / host.name for host in (mini, studio)}
        for home in self.homes.values():
            home.mkdir()
            (home / "models.toml").write_text(MODELS)
        self._processes: list[subprocess.Popen] = []
        self.url = f"http://{mini.address}:8080"
        socket = self.homes["mini"] / "valkey.sock"
        self.redis = redis.Redis(unix_socket_path=str(socket), username="admin", password="secret-of-admin")

    def start(self, **environ: str) -> None:
        home = self.homes["mini"]
        conf, key, certificate = home / "valkey.conf", home / "key.pem", self.homes["studio"] / "ca.pem"
        conf.write_text(VALKEY.format(folder=home) + users() + "\n")
        make_certificate(certificate, key, self.mini.address)
        self.run(self.mini, "valkey", str(embedded.binary()), str(conf))
        self.run(self.mini, "tls", sys.executable, tls.__file__, self.mini.address, "6380", str(certificate),
                 str(key), "6379")  # fmt: skip
        until(lambda: self._is_up())
        self.ominix(self.mini, "api", "api", OMINIX_HOST=self.mini.address, OMINIX_PORT="8080", **environ)
        self.ominix(self.mini, "reaper", "reaper")

    def start_worker(self, host: Host) -> subprocess.Popen:
        """A worker, ready; the one on "studio" finds nothing where the other's files are."""
        if host is self.mini:
            process = self.ominix(host, "worker", "worker", "echo", OMINIX_WORKER_NAME=host.name)
        else:
            certificate, secret = self.homes["studio"] / "ca.pem", quote(SECRET, safe="")
            redis_url = f"rediss://worker:{secret}@{self.mini.address}:6380?ssl_ca_certs={certificate}"
            process = self.ominix(
                host, "worker", "worker", "--redis", redis_url, "echo", hidden=self.homes["mini"],
                OMINIX_WORKER_NAME=host.name, REDIS_URL="",
            )  # fmt: skip
        until(
            lambda: self.redis.hget(keys.worker(host.name), "state") == b"ready",
            what=self.log(host, "worker"),
        )
        return process

    def ominix(
        self, host: Host, name: str, *command: str, hidden: Path | None = None, **environ: str
    ) -> subprocess.Popen:
        home = self.homes[host.name]
        told = {
            "OMINIX_HOME": str(home),
            "OMINIX_MODELS_FILE": str(home / "models.toml"),
            "REDIS_URL": "redis://ominix:secret-of-mini@127.0.0.1:6379",
            "OMINIX_LEASE": "2",
            "OMINIX_INTERMEDIATE_GRACE": "1",
            "OMINIX_LOG_LEVEL": "DEBUG",
        }
        return self.run(
            host,
            name,
            sys.executable,
            "-P",
            "-m",
            "cli",
            *command,
            hidden=hidden,
            env=_clean() | told | environ,
        )

    def run(self, host: Host, name: str, *command: str, **options: object) -> subprocess.Popen:
        with (self.homes[host.name] / f"{name}.log").open("ab") as log:
            process = host.start(*command, stdout=log, stderr=subprocess.STDOUT, **options)
        self._processes.append(process)
        return process

    def log(self, host: Host, name: str) -> str:
        return (self.homes[host.name] / f"{name}.log").read_text(errors="replace")

    def hosts(self) -> dict[str, int]:
        return httpx.get(f"{self.url}/health").json()["models"]["echo"]["hosts"]

    def submit(self, audio: bytes) -> str:
        """Queue a transcription. Returns the job's id."""
        fields = {"endpoint": "/v1/audio/transcriptions", "model": "echo"}
        answer = httpx.post(f"{self.url}/v1/jobs", data=fields, files={"file": ("a.wav", audio)})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def text(self, job_id: str) -> str:
        """What the API answers for a job that has ended."""
        answer = httpx.get(f"{self.url}/v1/jobs/{job_id}/result")
        assert answer.status_code == 200, answer.text
        return answer.json()["text"]

    def job(self, job_id: str, field: str) -> str:
        return (self.redis.hget(StrictJob.key_for(job_id), field) or b"").decode()

    def stop(self) -> None:
        self.redis.close()
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()

    def _is_up(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """Not started yet. The test's own thread is on the network of "mini"."""
    if why := impossible():
        pytest.skip(why)
    with two_hosts("mini", "studio") as (mini, studio), mini.inside():
        system = System(tmp_path, mini, studio)
        try:
            yield system
        finally:
            system.stop()


def recording(number: int) -> bytes:
    return f"recording {number} ".encode() * 100_000


def transcript(content: bytes) -> str:
    """What the echo engine hears."""
    digest = hashlib.sha256(content).hexdigest()
    return f"{len(content)} bytes of " + " ".join(digest[at : at + 4] for at in range(0, 64, 4))


def _clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("OMINIX_") and k != "REDIS_URL"}
