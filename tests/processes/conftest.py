"""A real Valkey, real workers, and a client that speaks to them as the API does."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from redis import Redis

from shared import keys
from shared.blobs import BlobStore
from shared.channel import END
from shared.connections import connect
from shared.events import Event, decode
from shared.jobs import JobSpec, new_job_id
from shared.queues import StrictJob, make_job, make_queue, queue_name
from shared.settings import Settings, read_settings
from workers import embedded
from workers.reaper import Reaper

MODELS = """
[[model]]
id = "echo"
engine = "echo"
max_concurrency = 4
options = { step_ms = 20 }
"""


def until(claim: Callable[[], object], seconds: float = 20.0, what: str = "") -> object:
    """Wait until `claim` is true, and return what it said."""
    limit = time.monotonic() + seconds
    while not (said := claim()):
        assert time.monotonic() < limit, what or f"not within {seconds} s"
        time.sleep(0.01)
    return said


class Bench:
    """One Redis, and as many workers as a test starts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis: Redis = connect(settings.redis)
        self.workers: list[subprocess.Popen] = []
        self._numbers = itertools.count(1)

    def start_worker(
        self,
        model: str = "echo",
        *,
        code: str | None = None,
        log: IO[bytes] | None = None,
        **environ: str,
    ) -> subprocess.Popen:
        """A worker of an echo model; `code` runs first in its process, and its words go to `log`."""
        name = f"{model}-{next(self._numbers)}"
        program = f"{code or ''}\nfrom cli.__main__ import main; raise SystemExit(main())"
        worker = subprocess.Popen(
            [sys.executable, "-c", program, "worker", model],
            env={**os.environ, **self.environ(), "OMINIX_WORKER_NAME": name, **environ},
            stderr=log,
        )
        worker.name = name
        self.workers.append(worker)
        return worker

    def ready(self, worker: subprocess.Popen) -> subprocess.Popen:
        until(lambda: self.redis.hget(keys.worker(worker.name), "state") == b"ready")
        return worker

    def environ(self) -> dict[str, str]:
        return {
            "OMINIX_HOME": str(self.settings.home),
            "OMINIX_MODELS_FILE": str(self.settings.models_file),
            "REDIS_URL": self.settings.redis,
            "OMINIX_LEASE": str(self.settings.lease),
            "OMINIX_INTERMEDIATE_GRACE": str(self.settings.intermediate_grace),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def submit(self, text: str = "one two three", script: str = "{}", **fields: object) -> str:
        """Queue a chat job; the echo engine follows `script`."""
        fields = {"task": "chat", "model": "echo", "timeout": 60.0} | fields
        params = {
            "model": "echo",
            "messages": [{"role": "user", "content": text}],
            "metadata": {"echo": script},
        }
        return self.enqueue(JobSpec(id=new_job_id(), params=params, created=time.time(), **fields))

    def complete(self, script: str = "{}") -> str:
        """Queue a completion of two prompts, four choices each."""
        params = {"model": "echo", "prompt": ["one two", "three"], "n": 4, "max_tokens": 500}
        params["metadata"] = {"echo": script}
        spec = JobSpec(
            id=new_job_id(), task="completion", model="echo", params=params, created=time.time(), timeout=60.0
        )
        return self.enqueue(spec)

    def transcribe(self, audio: bytes, script: str = "{}", **fields: object) -> str:
        """Queue the transcription of a file with these bytes."""
        blob = BlobStore(self.settings.blobs_dir).create()
        blob.write(audio)
        blob.close()
        fields = {"task": "transcription", "model": "echo", "timeout": 60.0} | fields
        params = {"model": "echo", "prompt": f"echo:{script}"}
        spec = JobSpec(id=new_job_id(), params=params, created=time.time(), blob=blob.key, **fields)
        return self.enqueue(spec)

    def enqueue(self, spec: JobSpec) -> str:
        queue = make_queue(queue_name(spec.model, spec.lane), self.redis)
        queue.enqueue_job(make_job(spec, self.settings.result_ttl, self.redis))
        self.redis.zadd(keys.JOBS, {spec.id: spec.created})
        return spec.id

    def events(self, job_id: str) -> list[Event]:
        entries = self.redis.xrange(keys.events(job_id))
        return [decode(fields[keys.FIELD]) for _, fields in entries if fields[keys.FIELD]]

    def spoken(self, job_id: str) -> bool:
        return bool(self.events(job_id))

    def end(self, job_id: str, seconds: float = 20.0) -> Event:
        """The job's Done or Failed."""
        end_id = f"{END[0]}-{END[1]}"
        until(lambda: self.redis.xrange(keys.events(job_id), end_id, end_id), seconds, f"{job_id} has no end")
        return self.events(job_id)[-1]

    def status(self, job_id: str) -> str:
        return self.redis.hget(StrictJob.key_for(job_id), "status").decode()

    def reaper(self) -> Reaper:
        return Reaper(self.redis, self.settings)

    def stop(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of a real server on a socket of its own."""
    with tempfile.TemporaryDirectory(prefix="ominix-") as folder:
        settings = read_settings({}, home=Path(folder), redis_url="")
        socket = Path(folder) / "redis.sock"
        command = [str(embedded.binary()), str(settings.redis_conf), "--unixsocket", str(socket)]
        server = subprocess.Popen([*command, "--dir", folder, "--loglevel", "warning"])
        until(lambda: socket.exists())
        yield f"unix://{socket}"
        server.terminate()
        server.wait()


@pytest.fixture
def bench(valkey: str, tmp_path: Path) -> Iterator[Bench]:
    models = tmp_path / "models.toml"
    models.write_text(MODELS)
    settings = read_settings(
        {}, home=tmp_path, models_file=models, redis_url=valkey, lease=2, intermediate_grace=0.5
    )
    bench = Bench(settings)
    bench.redis.flushall()
    yield bench
    bench.stop()
    bench.redis.close()
