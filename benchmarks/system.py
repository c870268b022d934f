"""A whole OminiX of one's own to measure: real processes in a temporary home, gone afterwards."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import msgspec

ROOT = Path(__file__).parent.parent


class Running(msgspec.Struct, frozen=True):
    """A started system: its base URL, its supervisor's process id and its log file."""

    url: str
    pid: int
    log: Path


@contextlib.contextmanager
def running(models: str, ready: float = 300.0, **more: str) -> Iterator[Running]:
    """`ominix serve` with `models` as its models.toml, until the block ends; `more` are further settings.

    Waits up to `ready` seconds for every model. Raises RuntimeError with the end of the log. From
    then on SIGTERM ends this process by SystemExit, so that the system goes with it.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="ominix-bench-") as folder:
        home = Path(folder)
        (home / "models.toml").write_text(models)
        url, environ = _settings(home, more)
        with (home / "log").open("wb") as log:
            serve = subprocess.Popen(
                [sys.executable, "-m", "cli", "serve"],
                cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        system = Running(url, serve.pid, home / "log")
        try:
            _await_models(system, serve, time.monotonic() + ready)
            yield system
        finally:
            _stop(serve)


def _settings(home: Path, more: dict[str, str]) -> tuple[str, dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = {"OMINIX_HOME": f"{home}", "OMINIX_MODELS_FILE": f"{home}/models.toml", "OMINIX_PORT": f"{port}"}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMINIX_") and k != "REDIS_URL"}
    path = os.pathsep.join(filter(None, [f"{ROOT}", os.environ.get("PYTHONPATH")]))
    return f"http://127.0.0.1:{port}", inherited | ours | more | {"PYTHONPATH": path}


def _await_models(system: Running, serve: subprocess.Popen, deadline: float) -> None:
    while not _all_ready(system.url):
        if serve.poll() is not None or time.monotonic() > deadline:
            tail = system.log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"the system did not become ready; the end of its log:\n{tail}")
        time.sleep(0.2)


def _all_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            models = msgspec.json.decode(answer.read())["models"]
    except (URLError, OSError, msgspec.DecodeError):
        return False
    return bool(models) and all(model["ready"] for model in models.values())


def _stop(serve: subprocess.Popen) -> None:
    """Ask it to end, then end whatever is left of its process group."""
    serve.terminate()
    try:
        serve.wait(60)
    except subprocess.TimeoutExpired:
        print("the system did not stop within 60 s and is killed", file=sys.stderr)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(serve.pid, signal.SIGKILL)
    serve.wait()
