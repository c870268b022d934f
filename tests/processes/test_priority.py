"""Batch work of one worker, and interactive requests of another."""

import signal

import pytest

from shared import keys
from shared.events import Delta, Done
from tests.processes.conftest import MODELS, Bench, until

MORE_MODELS = """
[[model]]
id = "other"
engine = "echo"
options = { step_ms = 20 }

[[model]]
id = "single"
engine = "echo"
max_concurrency = 1
options = { step_ms = 20 }
"""
LONG = '{"tokens": 2000}'
NEVER, ALWAYS = "0", "1"  # the share that batch work keeps


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.settings.models_file.write_text(MODELS + MORE_MODELS)
    return bench


def words(bench: Bench, job_id: str) -> int:
    """How many it has said."""
    return sum(len(event.text.split()) for event in bench.events(job_id) if isinstance(event, Delta))


def start(bench: Bench, model: str = "echo", share: str = NEVER, **environ: str) -> None:
    """A worker of a model and one of the other, both ready."""
    each = [bench.start_worker(name, OMINIX_BATCH_SHARE=share, **environ) for name in (model, "other")]
    for worker in each:
        bench.ready(worker)


def begin(bench: Bench, **fields: object) -> str:
    """A long job that has begun to speak."""
    job_id = bench.submit(script=LONG, **fields)
    until(lambda: words(bench, job_id) > 10)
    return job_id


def said_meanwhile(bench: Bench, job_id: str, other: str, tokens: int) -> int:
    """Words of a job while another says so many tokens."""
    before, limit = words(bench, job_id), words(bench, other) + tokens
    until(lambda: words(bench, other) >= limit)
    return words(bench, job_id) - before


def test_batch_work_says_nothing_while_another_worker_answers(bench: Bench) -> None:
    start(bench)
    batch = begin(bench, lane="batch")
    chat = begin(bench, model="other")
    assert said_meanwhile(bench, batch, chat, 100) <= 2  # what was on its way
    bench.redis.xadd(keys.control("other"), {"j": chat})
    bench.end(chat)
    before = words(bench, batch)
    until(lambda: words(bench, batch) > before + 20)


def test_with_a_share_of_one_it_never_rests(bench: Bench) -> None:
    start(bench, share=ALWAYS)
    batch = begin(bench, lane="batch")
    chat = begin(bench, model="other")
    assert said_meanwhile(bench, batch, chat, 100) > 20


def test_batch_work_of_others_and_ones_own_requests_make_nobody_rest(bench: Bench) -> None:
    start(bench)
    both = begin(bench, lane="batch"), begin(bench, lane="batch", model="other")
    assert said_meanwhile(bench, *both, 50) > 10
    chat = begin(bench)
    assert said_meanwhile(bench, both[0], chat, 50) > 10


def test_a_request_of_a_resting_worker_is_answered_at_once(bench: Bench) -> None:
    start(bench)
    batch = begin(bench, lane="batch")
    chat = begin(bench, model="other")
    assert isinstance(bench.end(bench.submit()), Done)
    assert bench.status(batch) == bench.status(chat) == "started"


def test_a_resting_job_is_cancelled(bench: Bench) -> None:
    start(bench)
    batch = begin(bench, lane="batch")
    chat = begin(bench, model="other")
    bench.redis.xadd(keys.control("echo"), {"j": batch})
    assert bench.end(batch, seconds=2).code == "cancelled"
    assert bench.status(chat) == "started"


def test_a_rest_is_no_hang_and_does_not_count_against_a_jobs_limit(bench: Bench) -> None:
    start(bench, OMINIX_HANG_TIMEOUT="2")
    batch = bench.submit(script='{"tokens": 60}', lane="batch", timeout=4)
    until(lambda: words(bench, batch) > 10)
    chat = begin(bench, model="other")
    assert said_meanwhile(bench, batch, chat, 300) < 40
    bench.redis.xadd(keys.control("other"), {"j": chat})
    assert isinstance(bench.end(batch), Done)
    assert words(bench, batch) == 60


def test_requests_of_a_worker_that_was_killed_hold_nobody_up(bench: Bench) -> None:
    start(bench)
    batch = begin(bench, lane="batch")
    chat = begin(bench, model="other")
    assert said_meanwhile(bench, batch, chat, 50) <= 2
    bench.workers[1].kill()
    before = words(bench, batch)
    until(lambda: words(bench, batch) > before + 20)


def test_whoever_waits_for_the_batch_works_only_slot_does_not_wait_for_others_too(bench: Bench) -> None:
    start(bench, model="single")
    batch = bench.submit(script='{"tokens": 100}', lane="batch", model="single")
    until(lambda: words(bench, batch) > 10)
    chat = begin(bench, model="other")
    assert isinstance(bench.end(bench.submit(model="single")), Done)
    assert bench.status(batch) == "finished"
    assert bench.status(chat) == "started"


def test_a_drained_worker_ends_its_batch_work_without_a_rest(bench: Bench) -> None:
    start(bench)
    batch = bench.submit(script='{"tokens": 100}', lane="batch")
    until(lambda: words(bench, batch) > 10)
    chat = begin(bench, model="other")
    bench.workers[0].send_signal(signal.SIGTERM)
    assert bench.workers[0].wait(20) == 0
    assert isinstance(bench.end(batch), Done)
    assert bench.status(chat) == "started"
