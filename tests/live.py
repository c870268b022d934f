"""A whole system for tests: embedded Valkey, API and echo workers as real processes on a free port."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import redis

from shared import keys
from shared.settings import Settings, read_settings

ROOT = Path(__file__).parent.parent
LISTENING = "listening on "
PATIENCE = 30.0  # seconds for a process to come up or to end
MODELS = """
[[model]]
id = "echo"
engine = "echo"
aliases = ["echo-alias", "org/echo-repo"]
max_concurrency = 16
{echo}
[[model]]
id = "unserved"
engine = "echo"

[[model]]
id = "absent"
engine = "llm"
source = "hf:org/absent"
"""


class Live:
    """`environ` is added to the processes' environment, `echo` to the model's table in the manifest."""

    def __init__(self, home: Path, echo: str = "", **environ: str) -> None:
        self.home = home
        models = home / "models.toml"
        models.write_text(MODELS.format(echo=echo))
        chosen = {"OMINIX_HOME": str(home), "OMINIX_MODELS_FILE": str(models), "OMINIX_PORT": "0"}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMINIX_") and k != "REDIS_URL"}
        self.environ = inherited | chosen | environ
        self.settings: Settings = read_settings(self.environ)
        self.redis_url = self.settings.redis
        self.url = ""
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Live":
        try:
            self.start("redis", "redis")
            self.start_api()
            self.start_worker("echo")
        except BaseException:  # Ctrl-C must not leave processes either
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def client(self) -> openai.OpenAI:
        """A new client that does not try again; close it."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=20)

    def start(self, name: str, *command: str) -> subprocess.Popen:
        """Run `ominix <command>` under a name of its own; its output goes to `<home>/<name>.log`."""
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cli", *command],
                cwd=ROOT,
                env=self.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes[name] = process
        return process

    def start_api(self) -> None:
        """Start the API and learn its port from its log."""
        before = self.read_log("api").count(LISTENING)
        process = self.start("api", "api")
        until(lambda: self.read_log("api").count(LISTENING) > before or process.poll() is not None)
        assert process.poll() is None, self.read_log("api")
        self.url = self.read_log("api").rpartition(LISTENING)[2].split()[0]

    def start_worker(self, model: str, name: str = "worker") -> None:
        """Start a worker and wait until it is ready and the API knows."""
        process = self.start(name, "worker", model)
        with redis.Redis.from_url(self.redis_url) as store:
            until(lambda: _is_ready(store, process.pid) or process.poll() is not None)
        assert process.poll() is None, self.read_log(name)
        until(lambda: httpx.get(f"{self.url}/health").json()["models"][model]["ready"] > 0)

    def kill(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to a process by its name and return its exit status."""
        self.send(name, number)
        try:
            return self._processes[name].wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._processes[name].kill()
            self._processes[name].wait()
            raise

    def send(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    def stop(self) -> None:
        """End everything, workers and API before Redis."""
        for name in sorted(self._processes, key="redis".__eq__):
            if self._processes[name].poll() is None:
                self.kill(name)

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def read_log(self, name: str) -> str:
        return self.log(name).read_text(errors="replace") if self.log(name).exists() else ""


def until(condition, patience: float = PATIENCE) -> None:
    """Wait for something to become true. Raises AssertionError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def _is_ready(store: redis.Redis, pid: int) -> bool:
    names = [name.decode() for name in store.smembers(keys.WORKERS)]
    said = [store.hmget(keys.worker(name), "pid", "state") for name in names]
    return [str(pid).encode(), b"ready"] in said
