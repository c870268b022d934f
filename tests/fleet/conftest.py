"""`ominix serve` with a budget of memory, and models that come and go."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from shared import keys
from shared.settings import Settings, read_settings

ROOT = Path(__file__).parent.parent.parent
MIB = 1 << 20
PATIENCE = 60.0


def until(claim: Callable[[], object], seconds: float = PATIENCE, what: str = "") -> object:
    limit = time.monotonic() + seconds
    while not (said := claim()):
        assert time.monotonic() < limit, what or "it did not happen in time"
        time.sleep(0.02)
    return said


class Fleet:
    """A system with its own home, once it has said that all is ready."""

    def __init__(self, home: Path, models: str, **environ: str) -> None:
        home.mkdir(exist_ok=True)
        (home / "models.toml").write_text(models)
        self.output = home / "output"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMINIX_") and k != "REDIS_URL"}
        ours = {"OMINIX_HOME": f"{home}", "OMINIX_MODELS_FILE": f"{home}/models.toml", "OMINIX_PORT": "0"}
        self.environ = inherited | ours | environ
        self.settings: Settings = read_settings(self.environ)
        with self.output.open("wb") as file:
            self.process = psutil.Popen(
                [sys.executable, "-m", "cli", "serve"],
                cwd=ROOT,
                env=self.environ,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        ready = until(lambda: re.search(r"ready at (http\S+)", self.said))
        self.url = ready[1]
        self.client = httpx.Client(base_url=self.url, timeout=120)
        self.redis = redis.Redis.from_url(self.settings.redis)

    @property
    def said(self) -> str:
        return self.output.read_text()

    def children(self) -> list[psutil.Process]:
        return self.process.children(recursive=True)

    def workers(self, model: str = "") -> list[psutil.Process]:
        """Those of a model, or of all of them."""
        return [child for child in self.children() if _serves(child, model)]

    def health(self, model: str) -> dict:
        return self.client.get("/health").json()["models"][model]

    def chat(self, model: str, text: str = "hello", script: str = "{}") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "metadata": {"echo": script}}
        return self.client.post("/v1/chat/completions", json=body)

    def submit(self, model: str, text: str = "hello", script: str = "{}") -> str:
        """The id of a job that nobody waits for."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], "metadata": {"echo": script}}
        asked = {"prefer": "respond-async"}
        return self.client.post("/v1/chat/completions", json=body, headers=asked).json()["id"]

    def ask(self, what: str, model: str, **fields: object) -> httpx.Response:
        """ "load" or "unload"."""
        return self.client.post(f"/v1/models/{what}", json={"model": model} | fields)

    def end(self, job_id: str) -> dict:
        """The job object, once it has ended."""
        return until(lambda: (job := self.job(job_id)) and job["finished_at"] and job)

    def job(self, job_id: str) -> dict:
        return self.client.get(f"/v1/jobs/{job_id}").json()

    def settle(self, what: str, model: str, **fields: object) -> dict:
        """The same, waited for."""
        return self.end(self.ask(what, model, **fields).raise_for_status().json()["job_id"])

    def events(self, job_id: str) -> list[tuple[str, bytes]]:
        entries = self.redis.xrange(keys.events(job_id))
        return [(entry.decode(), fields[keys.FIELD]) for entry, fields in entries]

    def stop(self) -> None:
        self.client.close()
        self.redis.close()
        left = [*self.children(), self.process]
        self.process.terminate()
        try:
            self.process.wait(60)
        except psutil.TimeoutExpired:
            for process in left:
                process.kill()
        psutil.wait_procs(left, timeout=10)


class Scale(threading.Thread):
    """Looks every 100 ms at what all workers together have in memory."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self._fleet = fleet
        self._stopped = threading.Event()
        self.samples: list[int] = []

    def __enter__(self) -> "Scale":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()

    @property
    def most(self) -> int:
        """MiB."""
        return max(self.samples) // MIB

    def run(self) -> None:
        while not self._stopped.wait(0.1):
            self.samples.append(sum(map(_resident, self._fleet.workers())))


def _serves(process: psutil.Process, model: str) -> bool:
    try:
        command = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    return "worker" in command and command[-1] == (model or command[-1])


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    fleets: list[Fleet] = []

    def serve(models: str, **environ: str) -> Fleet:
        fleets.append(Fleet(tmp_path / "home", models, **environ))
        return fleets[-1]

    yield serve
    for fleet in fleets:
        fleet.stop()
