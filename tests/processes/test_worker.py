"""One worker: what it takes, how it ends, and what it leaves in RQ."""

import signal
import subprocess
import sys

from rq import Worker
from rq.registry import StartedJobRegistry

from shared import keys
from shared.events import Delta, Done, Failed
from shared.queues import StrictJob
from tests.processes.conftest import Bench, until
from workers.room import BROKEN

LONG = '{"tokens": 500}'


def test_a_job_says_deltas_and_then_one_done(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    job_id = bench.submit("one two three")
    assert isinstance(bench.end(job_id), Done)
    *deltas, done = bench.events(job_id)
    assert "".join(delta.text for delta in deltas) == done.result["choices"][0]["text"] == "one two three"
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert bench.redis.ttl(keys.events(job_id)) > 0


def test_jobs_run_together_in_one_batch(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    jobs = [bench.submit(script='{"tokens": 100}') for _ in range(4)]
    until(lambda: all(bench.spoken(job) for job in jobs))
    assert [bench.status(job) for job in jobs] == ["started"] * 4


def test_rq_sees_an_ordinary_worker_and_ordinary_jobs(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker())
    done, running = bench.submit(), bench.submit(script=LONG)
    bench.end(done)
    until(lambda: bench.spoken(running))
    seen = Worker.all(connection=bench.redis)
    assert [each.name for each in seen] == [worker.name]
    until(lambda: bench.redis.hget(seen[0].key, "state") == b"busy")
    assert bench.status(done) == "finished"
    assert StartedJobRegistry("echo", connection=bench.redis).get_job_ids() == [running]
    said = subprocess.run(
        [sys.executable, "-m", "rq.cli", "info", "--url", bench.settings.redis],
        capture_output=True,
        text=True,
    )
    assert "1 executing, 1 finished, 0 failed" in said.stdout, said.stdout + said.stderr


def test_a_failing_job_costs_only_itself(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    well = bench.submit(script='{"tokens": 20}')
    ill = bench.submit(script='{"fail_at": 2}')
    end = bench.end(ill)
    assert isinstance(end, Failed) and (end.status, end.code) == (500, "engine_error")
    assert ill in end.message
    assert isinstance(bench.end(well), Done)
    assert bench.status(ill) == "failed"


def test_an_engine_that_breaks_in_preparation_or_in_add_costs_one_job(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    for where in ("prepare", "add"):
        end = bench.end(bench.submit(script=f'{{"raise_in": "{where}"}}'))
        assert isinstance(end, Failed) and end.code == "engine_error"
    assert isinstance(bench.end(bench.submit()), Done)


def test_a_step_that_raises_costs_its_batch_and_the_worker_lives_on(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    assert isinstance(bench.end(bench.submit(script='{"raise_in": "step"}')), Failed)
    assert isinstance(bench.end(bench.submit()), Done)


def test_an_engine_that_cannot_forget_a_job_ends_its_worker_at_once(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker())
    job_id = bench.submit(script='{"tokens": 500, "raise_in": "abort"}')
    until(lambda: bench.spoken(job_id))
    bench.redis.xadd(keys.control("echo"), {"j": job_id})
    assert worker.wait(5) == BROKEN
    assert bench.end(job_id).code == "cancelled"


def test_a_job_past_its_limit_ends_as_a_timeout(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    end = bench.end(bench.submit(script=LONG, timeout=0.3))
    assert isinstance(end, Failed) and (end.status, end.code) == (504, "timeout")


def test_a_running_job_is_cancelled_within_a_step(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    job_id = bench.submit(script=LONG)
    until(lambda: bench.spoken(job_id))
    bench.redis.xadd(keys.control("echo"), {"j": job_id})
    assert bench.end(job_id, seconds=2).code == "cancelled"
    assert bench.status(job_id) == "canceled"


def test_a_job_that_was_cancelled_before_its_start_does_not_run(bench: Bench) -> None:
    job_id = bench.submit()
    bench.redis.set(keys.cancelled(job_id), 1)
    bench.start_worker()
    assert bench.end(job_id).code == "cancelled"
    assert len(bench.events(job_id)) == 1


def test_more_jobs_than_slots_wait_and_are_all_answered(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    jobs = [bench.submit() for _ in range(40)]
    assert all(isinstance(bench.end(job), Done) for job in jobs)


def test_an_interactive_job_passes_waiting_batch_jobs_and_a_slot_is_kept_for_it(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    batch = [bench.submit(script='{"tokens": 100}', lane="batch") for _ in range(8)]
    until(lambda: sum(bench.spoken(job) for job in batch) == 3)
    dictation = bench.submit()
    assert isinstance(bench.end(dictation), Done)
    assert sum(bench.status(job) == "queued" for job in batch) == 5


def test_a_drained_worker_finishes_what_runs_and_takes_nothing_more(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker())
    running = bench.submit(script='{"tokens": 100}')
    until(lambda: bench.spoken(running))
    worker.send_signal(signal.SIGTERM)
    until(lambda: bench.redis.hget(keys.worker(worker.name), "state") == b"draining")
    late = bench.submit()
    assert worker.wait(10) == 0
    assert isinstance(bench.end(running), Done)
    assert bench.status(late) == "queued"
    assert not Worker.all(connection=bench.redis)
    assert not bench.redis.smembers(keys.WORKERS)


def test_what_does_not_end_within_the_drain_limit_is_not_lost(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker(OMINIX_DRAIN_TIMEOUT="0.2"))
    spoken, silent = bench.submit(script=LONG), bench.submit(script='{"prepare_ms": 3000}')
    until(lambda: bench.spoken(spoken) and bench.status(silent) == "started")
    worker.send_signal(signal.SIGTERM)
    worker.wait(10)
    assert bench.end(spoken).code == "worker_died"
    assert bench.status(silent) == "queued"


def test_a_job_that_was_tampered_with_never_runs(bench: Bench) -> None:
    forged = bench.submit()
    bench.redis.hset(StrictJob.key_for(forged), "success_callback_name", "os.getcwd")
    foreign = bench.submit()
    bench.redis.hset(StrictJob.key_for(foreign), "data", b'["os.system", null, ["true"], {}]')
    bench.ready(bench.start_worker())
    assert isinstance(bench.end(bench.submit()), Done)
    assert not bench.events(forged) and not bench.events(foreign)
    assert not bench.redis.lrange("rq:queue:echo:intermediate", 0, -1)
