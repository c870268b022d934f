"""The supervisor over a real Redis and small Python programs in place of the API and the workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shared import fleet, keys
from shared.fleet import Wanted
from shared.settings import Settings, read_settings
from workers import redis_state

pytestmark = pytest.mark.systems

IDLE = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(15, signal.SIG_IGN); {IDLE}"
STAYS = f"import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN); {IDLE}"
BROKEN = "import sys; sys.exit('no such weights')"
READY = """
import os, redis, signal
client = redis.Redis.from_url("unix://" + os.environ["SOCKET"])
client.hset("ominix:worker:" + os.environ["OMINIX_WORKER_NAME"], mapping={"state": "ready"})
signal.pause()
"""


class System:
    """A supervisor process, what it printed so far, and its children."""

    def __init__(self, settings: Settings, output: Path, *programs: str) -> None:
        self.settings = settings
        self.output = output
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.supervised", *programs],
                env={
                    **os.environ,
                    "OMINIX_HOME": str(settings.home),
                    "OMINIX_DRAIN_TIMEOUT": str(settings.drain_timeout),
                    "SOCKET": str(settings.redis_socket),
                },
                stderr=file,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, code: str) -> psutil.Process | None:
        return next((it for it in self.children() if _runs(it, code)), None)

    def redis(self) -> psutil.Process | None:
        return next((it for it in self.children() if it.name().startswith("valkey")), None)

    def state(self, model: str) -> str:
        if not redis_state.is_up(self.settings):
            return ""
        with redis_state.connect(self.settings) as client:
            return (client.hget(keys.SUPERVISED, model) or b"").decode()

    def want(self, model: str, replicas: int) -> None:
        with redis_state.connect(self.settings) as client:
            fleet.write(client, {model: fleet.wanted(replicas, 0)})

    def wanted(self) -> dict[str, Wanted]:
        with redis_state.connect(self.settings) as client:
            return fleet.read(client.hgetall(keys.REPLICAS))

    def workers(self) -> list[psutil.Process]:
        """All children that run one of our programs, but for the first, which stands for the API."""
        programs = [it for it in self.children() if _is_program(it)]
        return sorted(programs, key=lambda it: it.create_time())[1:]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def _is_program(process: psutil.Process) -> bool:
    try:
        return "-c" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _runs(process: psutil.Process, code: str) -> bool:
    try:
        return code in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def until(claim: Callable[[], object], what: str = "") -> object:
    limit = time.monotonic() + 30
    while not (said := claim()):
        assert time.monotonic() < limit, what or "it never came"
        time.sleep(0.02)
    return said


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = read_settings({}, home=tmp_path / "home", drain_timeout=20.0)
    yield settings
    if live := redis_state.find_live(settings):
        os.kill(live.pid, signal.SIGKILL)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., System]]:
    systems: list[System] = []

    def start(*programs: str) -> System:
        systems.append(System(settings, tmp_path / f"output{len(systems)}", *programs))
        return systems[-1]

    yield start
    for system in systems:
        if system.process.poll() is None:
            left = system.children()
            system.process.kill()
            system.process.wait()
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=10)


def test_everything_starts_and_a_sigterm_leaves_nothing_behind(start: Callable[..., System]):
    system = start(IDLE, IDLE, IDLE)
    until(lambda: system.said.count("| up") == 3)
    children = system.children()
    assert len(children) == 4
    assert system.stop() == 0
    assert [it for it in children if it.is_running()] == []


def test_ctrl_c_stops_it_as_well_and_a_second_one_hurries(start: Callable[..., System]):
    system = start(STUBBORN, STUBBORN)
    until(lambda: system.said.count("| up") == 2)
    children = system.children()
    system.process.send_signal(signal.SIGINT)
    until(lambda: "stopping" in system.said)
    assert system.stop(signal.SIGINT) == 0
    assert [it for it in children if it.is_running()] == []


def test_a_killed_child_is_started_again(start: Callable[..., System]):
    system = start(IDLE, IDLE)
    until(lambda: system.said.count("| up") == 2)
    before = {it.pid for it in system.children()}
    next(it for it in system.children() if it != system.redis()).kill()
    until(lambda: system.said.count("| up") == 3)
    assert "was ended by SIGKILL; starting it again in" in system.said
    assert len({it.pid for it in system.children()} - before) == 1


def test_a_model_that_cannot_be_loaded_is_called_failed_with_the_reason_and_tried_on(start):
    system = start(IDLE, BROKEN)
    until(lambda: system.state("model0") == "failed: no such weights")
    tries = system.said.count("status 1")
    until(lambda: system.said.count("status 1") > tries)


def test_a_model_is_called_running_once_its_worker_is_ready(start: Callable[..., System]):
    system = start(IDLE, READY, IDLE)
    until(lambda: system.state("model0") == "running")
    assert system.state("model1") == "starting"
    system.stop()


def test_a_killed_redis_comes_back_with_its_data(start: Callable[..., System], settings: Settings):
    system = start(IDLE, IDLE)
    until(lambda: system.said.count("| up") == 2)
    with redis_state.connect(settings) as client:
        client.set("job", "kept")
        # a disk that is busy with the last fsync holds a write back for up to two seconds
        while client.execute_command("WAITAOF", 1, 0, 500)[0] < 1:
            continue
    killed = system.redis()
    killed.kill()
    until(lambda: (it := system.redis()) and it != killed)
    assert redis_state.wait_until_up(settings, 20.0)
    with redis_state.connect(settings) as client:
        assert client.get("job") == b"kept"
    assert system.said.count("| up") == 2


def test_a_redis_left_by_a_killed_supervisor_is_used_and_stopped(start, settings: Settings):
    first = start(IDLE)
    until(lambda: first.said.count("| up") == 1)
    redis, orphans = first.redis(), first.children()
    first.process.kill()
    first.process.wait()
    second = start(IDLE)
    until(lambda: second.said.count("| up") == 1)
    assert f"already running as process {redis.pid}" in second.said
    assert second.redis() is None
    assert second.stop() == 0
    until(lambda: redis_state.find_live(settings) is None)
    for process in orphans:
        process.kill()


def test_a_redis_started_by_hand_is_used_left_running_and_replaced_when_it_dies(start, settings: Settings):
    by_hand = subprocess.Popen(
        [sys.executable, "-m", "cli", "redis"], env={**os.environ, "OMINIX_HOME": str(settings.home)}
    )
    assert redis_state.wait_until_up(settings, 20.0)
    first = start(IDLE)
    until(lambda: first.said.count("| up") == 1)
    assert first.stop() == 0
    assert by_hand.poll() is None
    second = start(IDLE)
    until(lambda: second.said.count("| up") == 1)
    by_hand.kill()
    by_hand.wait()
    until(second.redis)
    assert second.stop() == 0


def test_a_redis_that_cannot_start_is_said_and_nothing_else_is_started(start, settings: Settings):
    settings.home.mkdir()
    (settings.home / "redis").write_text("in the way")
    system = start(IDLE)
    assert system.process.wait(30) == 1
    assert "is not to be had" in system.said
    assert "| up" not in system.said


def test_as_many_workers_run_as_are_wanted_and_what_is_told_to_leave_is_not_started_again(start):
    system = start(IDLE, IDLE)
    until(lambda: system.said.count("| up") == 2)
    assert system.wanted()["model0"].replicas == 1
    system.want("model0", 3)
    until(lambda: system.said.count("| up") == 4)
    assert {"model0.2", "model0.3"} <= {line.split()[0] for line in system.said.splitlines()}
    system.want("model0", 0)
    until(lambda: not system.workers())
    until(lambda: system.state("model0") == "")
    assert system.said.count("it is unloaded") == 3
    assert "starting it again" not in system.said
    system.want("model0", 1)
    until(lambda: system.said.count("| up") == 5)
    system.stop()


def test_a_worker_that_does_not_leave_is_killed_after_its_patience(start: Callable[..., System]):
    system = start(IDLE, STAYS)
    until(lambda: system.said.count("| up") == 2)
    system.want("model0", 0)
    until(lambda: not system.workers())
    assert "it is unloaded" in system.said
    system.stop()


def test_a_worker_that_is_named_is_replaced_and_that_is_no_failure(start: Callable[..., System]):
    system = start(IDLE, READY)
    until(lambda: system.state("model0") == "running")
    [old] = system.workers()
    with redis_state.connect(system.settings) as client:
        [record] = client.keys("ominix:worker:*")
        client.sadd(keys.RECYCLE, record.decode().removeprefix("ominix:worker:"))
        fleet.wake(client, keys.SUPERVISOR_WAKE)
    until(lambda: (workers := system.workers()) and old not in workers)
    assert "starting it again in 0.0 s" in system.said
    system.stop()


def test_workers_are_looked_after_and_what_is_wanted_is_kept_while_redis_is_away(start, settings):
    system = start(IDLE, IDLE, IDLE)
    until(lambda: system.said.count("| up") == 3)
    system.want("model0", 2)
    until(lambda: system.said.count("| up") == 4)
    system.redis().kill()
    system.workers()[0].kill()
    until(lambda: system.said.count("| up") == 5)
    assert redis_state.wait_until_up(settings, 20.0)
    until(lambda: {model: it.replicas for model, it in system.wanted().items()} == {"model0": 2, "model1": 1})
    system.stop()


def test_what_a_redis_has_forgotten_is_told_it_again(start: Callable[..., System], settings: Settings):
    system = start(IDLE, IDLE)
    until(lambda: system.said.count("| up") == 2)
    with redis_state.connect(settings) as client:
        client.flushall()
    until(lambda: system.wanted().get("model0"))
    assert len(system.workers()) == 1
    system.stop()


def test_what_an_earlier_supervisor_was_asked_for_is_forgotten(start: Callable[..., System]):
    first = start(IDLE, IDLE)
    until(lambda: first.said.count("| up") == 2)
    orphans = first.children()
    first.want("model0", 3)
    until(lambda: first.said.count("| up") == 4)
    orphans = [it for it in first.children() if it != first.redis()]
    first.process.kill()
    first.process.wait()
    second = start(IDLE, IDLE)
    until(lambda: second.said.count("| up") == 2)
    assert second.wanted()["model0"].replicas == 1
    assert len(second.workers()) == 1
    second.stop()
    for process in orphans:
        process.kill()
