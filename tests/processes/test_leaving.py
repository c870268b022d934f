"""A worker that is told to leave takes its time; and what is said before any worker is no word of one."""

import signal

from shared import keys
from shared.events import Delta, Done, encode
from tests.processes.conftest import Bench, until
from workers.settle import settle_worker

LONG = '{"tokens": 100}'  # two seconds


def told(bench: Bench, job_id: str) -> None:
    """As the steward does while the job waits."""
    event = Delta(data={"load": {"state": "loading", "model": "echo"}})
    bench.redis.xadd(keys.events(job_id), {keys.FIELD: encode(event)}, id="0-1")


def test_a_worker_that_may_take_its_time_finishes_what_would_fail_elsewhere(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker(OMINIX_DRAIN_TIMEOUT="0.2"))
    spoken = bench.submit(script=LONG)
    until(lambda: bench.spoken(spoken))
    worker.send_signal(signal.SIGUSR1)
    until(lambda: bench.redis.hget(keys.worker(worker.name), "state") == b"draining")
    late = bench.submit()
    assert worker.wait(20) == 0
    assert isinstance(bench.end(spoken), Done)
    assert bench.status(late) == "queued"


def test_it_does_not_wait_for_what_another_can_run(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker(OMINIX_DRAIN_TIMEOUT="0.2"))
    silent = bench.submit(script='{"prepare_ms": 60000}')
    until(lambda: bench.status(silent) == "started")
    worker.send_signal(signal.SIGUSR1)
    worker.wait(20)
    assert bench.status(silent) == "queued"


def test_a_stop_of_the_whole_system_ends_its_patience(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker(OMINIX_DRAIN_TIMEOUT="0.2"))
    spoken = bench.submit(script='{"tokens": 5000}')
    until(lambda: bench.spoken(spoken))
    worker.send_signal(signal.SIGUSR1)
    until(lambda: bench.redis.hget(keys.worker(worker.name), "state") == b"draining")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert bench.end(spoken).code == "worker_died"


def test_a_job_that_was_told_of_its_model_s_loading_counts_as_silent(bench: Bench) -> None:
    job_id = bench.submit(script='{"prepare_ms": 3000}')
    told(bench, job_id)
    worker = bench.start_worker()
    until(lambda: bench.status(job_id) == "started")
    worker.kill()
    worker.wait()
    settle_worker(bench.redis, worker.name, bench.settings)
    assert bench.status(job_id) == "queued"
    bench.start_worker()
    assert isinstance(bench.end(job_id), Done)


def test_a_worker_s_record_says_what_it_takes_and_since_when_it_is_idle(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker(OMINIX_MEMORY_SHARE_MB="123"))

    def record() -> dict[str, float]:
        names = ("memory", "peak", "share_mb", "idle_since", "supervised")
        return dict(zip(names, map(float, bench.redis.hmget(keys.worker(worker.name), names)), strict=True))

    first = record()
    assert 10 << 20 < first["memory"] <= first["peak"]
    assert (first["share_mb"], first["supervised"]) == (123, 0)
    assert first["idle_since"] > 0
    job_id = bench.submit(script=LONG)
    until(lambda: record()["idle_since"] == 0)
    bench.end(job_id)
    until(lambda: record()["idle_since"] > first["idle_since"])
