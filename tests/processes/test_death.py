"""What a death costs: nothing that was acknowledged, and nothing is said twice."""

import signal
import time
from collections.abc import Callable

import pytest

from shared.events import Done, Failed
from shared.queues import StrictJob
from tests.processes.conftest import Bench, until
from workers.settle import settle_worker

LONG = '{"tokens": 500}'


def kill(bench: Bench, worker) -> None:
    worker.kill()
    worker.wait()
    settle_worker(bench.redis, worker.name, bench.settings)


@pytest.mark.parametrize(
    ("submit", "texts"),
    [(Bench.submit, ["one two three"]), (Bench.complete, [" one two"] * 4 + [" three"] * 4)],
    ids=["chat", "completion of many choices"],
)
def test_a_dead_worker_s_spoken_job_fails_and_its_silent_job_is_run_again(
    bench: Bench, submit: Callable[..., str], texts: list[str]
) -> None:
    worker = bench.ready(bench.start_worker())
    spoken, silent = submit(bench, script=LONG), submit(bench, script='{"prepare_ms": 2000}')
    until(lambda: bench.spoken(spoken) and bench.status(silent) == "started")
    kill(bench, worker)
    assert bench.end(spoken, seconds=1).code == "worker_died"
    assert bench.status(silent) == "queued"
    bench.ready(bench.start_worker())
    assert [choice["text"] for choice in bench.end(silent).result["choices"]] == texts


@pytest.mark.parametrize("moment", ["_begin", "_register"])
def test_a_worker_killed_right_after_taking_a_job_loses_nothing(bench: Bench, moment: str) -> None:
    code = (
        "import os; from workers.worker import EngineWorker\n"
        f"EngineWorker.{moment} = lambda *_: os.kill(os.getpid(), 9)"
    )
    worker = bench.start_worker(code=code)
    job_id = bench.submit()
    assert worker.wait(20) == -signal.SIGKILL
    settle_worker(bench.redis, worker.name, bench.settings)
    assert bench.redis.lrange("rq:queue:echo:intermediate", 0, -1) == [job_id.encode()]
    reaper = bench.reaper()
    until(lambda: reaper.sweep() or bench.redis.llen("rq:queue:echo"))
    bench.start_worker()
    assert isinstance(bench.end(job_id), Done)


def test_a_worker_killed_right_after_registering_a_job_loses_nothing(bench: Bench) -> None:
    code = (
        "import os; from workers.worker import EngineWorker\n"
        "EngineWorker._early_cancellation = lambda *_: os.kill(os.getpid(), 9)"
    )
    worker = bench.start_worker(code=code)
    job_id = bench.submit()
    worker.wait(20)
    assert bench.status(job_id) == "started"
    settle_worker(bench.redis, worker.name, bench.settings)
    assert bench.status(job_id) == "queued"
    bench.start_worker()
    assert isinstance(bench.end(job_id), Done)


def test_without_a_supervisor_the_lease_runs_out_and_the_reaper_settles(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker())
    spoken, silent = bench.submit(script=LONG), bench.submit(script='{"prepare_ms": 9000}')
    until(lambda: bench.spoken(spoken) and bench.status(silent) == "started")
    worker.kill()
    reaper = bench.reaper()
    until(lambda: reaper.sweep() or bench.status(silent) == "queued")
    assert bench.end(spoken).code == "worker_died"


def test_a_worker_that_slept_through_its_lease_says_nothing_more(bench: Bench) -> None:
    """It is stopped, its job goes to another, it wakes: one answer, from the other."""
    sleeper = bench.ready(bench.start_worker())
    job_id = bench.submit("one two three", script='{"prepare_ms": 1000}')
    until(lambda: bench.status(job_id) == "started")
    sleeper.send_signal(signal.SIGSTOP)
    reaper = bench.reaper()
    until(lambda: reaper.sweep() or bench.status(job_id) == "queued")
    bench.start_worker()
    until(lambda: bench.status(job_id) == "started")
    sleeper.send_signal(signal.SIGCONT)
    assert isinstance(bench.end(job_id), Done)
    time.sleep(1.5)  # the sleeper would have spoken by now
    *deltas, done = bench.events(job_id)
    assert "".join(delta.text for delta in deltas) == done.result["choices"][0]["text"] == "one two three"
    assert bench.redis.hget(StrictJob.key_for(job_id), "attempt") == b"3"


def test_a_job_that_was_there_at_four_deaths_fails(bench: Bench) -> None:
    job_id = bench.submit(script='{"prepare_ms": 60000}')
    for _ in range(4):
        worker = bench.start_worker()
        until(lambda: bench.status(job_id) == "started")
        kill(bench, worker)
    assert bench.end(job_id, seconds=1).code == "worker_died"


@pytest.mark.parametrize("hang", ["gil", "free"])
def test_a_step_that_hangs_ends_the_process(bench: Bench, hang: str) -> None:
    worker = bench.ready(bench.start_worker(OMINIX_HANG_TIMEOUT="1"))
    bench.submit(script=f'{{"tokens": 5, "hang_at": 2, "hang": "{hang}", "hang_ms": 60000}}')
    assert worker.wait(15) == 1


def test_a_preparation_that_hangs_ends_the_process(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker(OMINIX_HANG_TIMEOUT="1"))
    job_id = bench.submit(script='{"prepare_ms": 60000}', timeout=0.3)
    assert bench.end(job_id).code == "timeout"
    assert worker.wait(15) == 70


def test_an_answer_in_the_stream_is_the_truth_whatever_rq_says(bench: Bench) -> None:
    """A worker that dies between a job's end and its settlement leaves a job that has ended."""
    worker = bench.ready(bench.start_worker())
    job_id = bench.submit()
    assert isinstance(bench.end(job_id), Done)
    kill(bench, worker)
    assert bench.status(job_id) == "finished"
    assert isinstance(bench.events(job_id)[-1], Done)
    assert not any(isinstance(event, Failed) for event in bench.events(job_id))


def test_a_sleeping_machine_is_not_a_crash(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker())
    job_id = bench.submit(script='{"prepare_ms": 60000}')
    until(lambda: bench.status(job_id) == "started")
    worker.kill()
    time.sleep(bench.settings.lease + 0.5)
    reaper = bench.reaper()
    reaper._offset -= 60  # as if the wall clock had gone on while the monotonic one stood still
    reaper.sweep()
    assert bench.status(job_id) == "started"
    until(lambda: reaper.sweep() or bench.status(job_id) == "queued", seconds=10)
