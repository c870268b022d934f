"""`ominix serve` and the Procfile, whole: real processes, with the echo engine for a model."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
ECHO = '[[model]]\nid = "echo"\nengine = "echo"\nreplicas = 2\n'
pytestmark = pytest.mark.systems

PROCFILE = "redis: ominix redis\napi: ominix api\nchat: ominix worker echo\nreaper: ominix reaper\n"


class System:
    """A command that stays, with a home of its own, and what it prints."""

    def __init__(self, home: Path, command: list[str], **environ: str) -> None:
        home.mkdir(exist_ok=True)
        (home / "models.toml").write_text(ECHO)
        self.output = home / "output"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMINIX_") and k != "REDIS_URL"}
        chosen = {"OMINIX_HOME": str(home), "OMINIX_MODELS_FILE": str(home / "models.toml")}
        with self.output.open("wb") as file:
            self.process = psutil.Popen(
                command, env=inherited | chosen | environ, cwd=home, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def url(self) -> str:
        """Once it has said that all is ready."""
        return until(lambda: re.search(r"ready at (http\S+)", self.said), self)[1]

    def children(self) -> list[psutil.Process]:
        return self.process.children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        return [child for child in self.children() if "worker" in command_of(child)]

    def stop(self, number: int = signal.SIGINT) -> int:
        """Its exit status; every child has ended as well."""
        children = self.children()
        self.process.send_signal(number)
        status = self.process.wait(40)
        assert psutil.wait_procs(children, timeout=5)[1] == [], self.said
        return status


def until(claim: Callable[[], object], system: System) -> object:
    limit = time.monotonic() + 40
    while not (said := claim()):
        assert time.monotonic() < limit and system.process.poll() is None, system.said
        time.sleep(0.05)
    return said


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # it has just ended
        return []


def redis_of(system: System) -> psutil.Process | None:
    return next((child for child in system.children() if child.name().startswith("valkey")), None)


def chat(url: str, text: str) -> str:
    body = {"model": "echo", "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def health(url: str) -> dict:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            return json.load(answer)
    except (urllib.error.URLError, OSError):
        return {"status": "away"}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., System]]:
    systems: list[System] = []

    def run(*command: str, home: str = "home", **environ: str) -> System:
        systems.append(System(tmp_path / home, list(command), **environ))
        return systems[-1]

    yield run
    for system in systems:
        if system.process.is_running():
            left = [*system.children(), system.process]
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=10)


@pytest.fixture
def serve(run: Callable[..., System]) -> Callable[..., System]:
    return lambda *options, **more: run(sys.executable, "-m", "cli", "serve", *options, **more)


def test_serve_answers_says_what_to_try_and_leaves_nothing_behind(serve: Callable[..., System]):
    system = serve("--port", "0")
    url = system.url()
    assert chat(url, "hello there") == "hello there"
    assert health(url)["status"] == "ok"
    assert f"curl {url}/v1/chat/completions" in system.said
    assert len(system.children()) == 5
    assert system.stop() == 0


def test_a_killed_worker_comes_back_while_the_other_replica_serves(serve: Callable[..., System]):
    system = serve("--port", "0")
    url = system.url()
    system.workers()[0].kill()
    assert chat(url, "still here") == "still here"
    until(lambda: health(url)["models"]["echo"]["ready"] == 2 and len(system.workers()) == 2, system)
    assert system.stop(signal.SIGTERM) == 0


def test_a_killed_redis_comes_back_and_requests_are_answered(serve: Callable[..., System]):
    system = serve("--port", "0")
    url = system.url()
    killed = redis_of(system)
    killed.kill()
    until(lambda: (it := redis_of(system)) and it != killed, system)
    assert chat(url, "back again") == "back again"
    assert system.stop() == 0


def test_a_second_serve_on_the_same_home_is_refused_with_the_pid_of_the_first(serve):
    first = serve("--port", "0")
    first.url()
    said = subprocess.run(
        [sys.executable, "-m", "cli", "serve"],
        env=os.environ | {"OMINIX_HOME": str(first.output.parent)},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1
    assert f"already running on {first.output.parent} (process {first.process.pid})" in said.stderr
    assert first.stop() == 0


def test_a_port_in_use_is_said_before_anything_is_started(serve: Callable[..., System]):
    with socket.create_server(("127.0.0.1", 0)) as other:
        system = serve("--port", str(other.getsockname()[1]))
        assert system.process.wait(30) == 1
    assert system.said.startswith("ominix: 127.0.0.1:") and system.said.count("\n") == 1
    assert not (system.output.parent / "redis").exists()


def test_the_parts_work_one_by_one_and_scale_by_counts(run: Callable[..., System], tmp_path: Path):
    (tmp_path / "Procfile").write_text(PROCFILE.replace("ominix", f"{sys.executable} -m cli"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    system = run(
        *(sys.executable, "-m", "honcho", "-f", str(tmp_path / "Procfile"), "start", "-c", "chat=2"),
        OMINIX_PORT=str(port),
        PYTHONPATH=str(ROOT),
    )
    url = f"http://127.0.0.1:{port}"
    until(lambda: health(url).get("models", {}).get("echo", {}).get("ready") == 2, system)
    assert chat(url, "from honcho") == "from honcho"
    system.stop(signal.SIGTERM)


def test_the_procfile_names_models_that_there_are():
    lines = dict(line.split(": ") for line in (ROOT / "Procfile").read_text().splitlines())
    assert list(lines) == ["redis", "api", "chat", "asr", "reaper", "steward"]
    models = (ROOT / "models.toml").read_text()
    for name in ("chat", "asr"):
        assert f'id = "{lines[name].removeprefix("ominix worker ")}"' in models
