"""Jobs with one prompt_cache_key run where the last one did, as long as there is room."""

import hashlib
import itertools
import signal
import time

import pytest
from rq.serializers import JSONSerializer
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from shared import keys
from shared.events import Done
from shared.jobs import JobSpec, new_job_id
from shared.queues import StrictJob, make_queue
from tests.processes.conftest import Bench, until
from workers.affinity import Affinity
from workers.settle import settle_worker

LONG = '{"tokens": 500}'
LANE = "rq:queue:echo"
TAKEN = f"{LANE}:intermediate"
NEVER_LOOKS = """
import os
from workers.affinity import Affinity
Affinity.elsewhere = lambda *_: os.kill(os.getpid(), 9)
"""


def ask(bench: Bench, key: str, script: str = "{}", lane: str = "interactive") -> str:
    params = {
        "model": "echo",
        "messages": [{"role": "user", "content": "one two"}],
        "metadata": {"echo": script},
        "prompt_cache_key": key,
    }
    spec = {"task": "chat", "model": "echo", "timeout": 60.0, "lane": lane}
    return bench.enqueue(JobSpec(id=new_job_id(), params=params, created=time.time(), **spec))


def ran(bench: Bench, job_id: str) -> str:
    """The worker that took it."""
    return bench.redis.hget(StrictJob.key_for(job_id), "worker_name").decode()


def run(bench: Bench, key: str, **options: str) -> str:
    """The worker that has answered."""
    job_id = ask(bench, key, **options)
    assert isinstance(bench.end(job_id), Done)
    return ran(bench, job_id)


def home(key: str) -> str:
    return keys.cache_home("echo", hashlib.sha256(key.encode()).hexdigest())


def a_home_that_never_takes(bench: Bench, key: str) -> None:
    """Of a worker that says that it is well and has room, and is not there."""
    bench.redis.sadd(WORKERS_BY_QUEUE_KEY % "echo", "rq:worker:ghost")
    bench.redis.hset(keys.worker("ghost"), mapping={"state": "ready", "capacity": 4})
    bench.redis.set(home(key), "ghost")


def two_workers(bench: Bench) -> list[str]:
    return [bench.ready(worker).name for worker in (bench.start_worker(), bench.start_worker())]


def test_jobs_of_one_key_go_to_one_worker(bench: Bench) -> None:
    two_workers(bench)
    ran_at = {key: [run(bench, key) for _ in range(10)] for key in ("a", "b", "c")}
    moves = sum(here != there for at in ran_at.values() for here, there in itertools.pairwise(at))
    assert moves <= 3  # by turns it would be 27; one is allowed to a worker that this machine held up


def test_jobs_find_their_home_past_a_third_worker_too(bench: Bench) -> None:
    two_workers(bench)
    bench.ready(bench.start_worker())
    ran_at = [run(bench, "a") for _ in range(20)]
    assert sum(here != there for here, there in itertools.pairwise(ran_at)) <= 8  # by chance it would be 13


def test_a_job_that_was_handed_back_has_begun_once(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    a_home_that_never_takes(bench, "a")
    job_id = ask(bench, "a")
    assert isinstance(bench.end(job_id), Done)
    assert bench.redis.hget(StrictJob.key_for(job_id), "attempt") == b"1"
    assert [fields[b"j"] for _, fields in bench.redis.xrange(keys.STARTED)] == [job_id.encode()]
    assert "".join(event.text for event in bench.events(job_id)[:-1]) == "one two"
    assert not bench.redis.lrange(TAKEN, 0, -1) and not bench.redis.lrange(LANE, 0, -1)


def test_a_home_that_does_not_take_is_home_no_more(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker())
    a_home_that_never_takes(bench, "a")
    assert run(bench, "a") == worker.name
    assert bench.redis.get(home("a")) == worker.name.encode()
    assert bench.redis.ttl(home("a")) > 3000


def test_jobs_do_not_wait_for_a_home_that_is_full(bench: Bench) -> None:
    full = bench.ready(bench.start_worker())
    running = [ask(bench, "a", LONG) for _ in range(4)]
    until(lambda: all(bench.status(job) == "started" for job in running))
    other = bench.ready(bench.start_worker())
    assert bench.redis.get(home("a")) == full.name.encode()
    assert [run(bench, "a") for _ in range(3)] == [other.name] * 3
    assert [bench.status(job) for job in running] == ["started"] * 4


def test_no_more_jobs_are_handed_back_than_their_home_has_room_for(bench: Bench) -> None:
    a_home_that_never_takes(bench, "a")
    for number in range(2):  # of its four slots
        bench.redis.sadd("rq:worker:ghost:executions", number)
    jobs = [StrictJob.fetch(ask(bench, "a"), bench.redis, JSONSerializer) for _ in range(5)]
    affinity, lane = Affinity("echo", "this", bench.redis), make_queue("echo", bench.redis)
    away = affinity.elsewhere(jobs)
    assert away == [job.id for job in jobs[:2]]

    for _ in jobs:
        bench.redis.lmove(LANE, TAKEN)
    with bench.redis.pipeline() as pipeline:
        affinity.hand_back(lane, away, pipeline)
        pipeline.execute()

    assert lane.job_ids == away
    assert affinity.elsewhere(jobs) == [job.id for job in jobs[2:4]]  # the first two have had their turn


def test_the_jobs_of_a_dead_home_go_on_elsewhere(bench: Bench) -> None:
    workers = {worker.name: worker for worker in (bench.start_worker(), bench.start_worker())}
    for worker in workers.values():
        bench.ready(worker)
    dead = run(bench, "a")
    workers[dead].kill()
    workers[dead].wait()
    at_once = run(bench, "a")  # its last word is that it is well
    bench.redis.set(home("a"), dead)
    settle_worker(bench.redis, dead, bench.settings)
    assert {at_once, run(bench, "a")} == workers.keys() - {dead}


@pytest.mark.parametrize("moment", ["hand_back", "wait"])
def test_a_worker_killed_as_it_hands_a_job_back_loses_nothing(bench: Bench, moment: str) -> None:
    """Before the transaction, and right after it."""
    code = (
        "import os; from workers.affinity import Affinity\n"
        f"original = Affinity.{moment}\n"
        "def die(self, queue, *rest):\n"
        "    if rest and rest[0] or self._leaving: os.kill(os.getpid(), 9)\n"
        "    original(self, queue, *rest)\n"
        f"Affinity.{moment} = die"
    )
    a_home_that_never_takes(bench, "a")
    worker = bench.start_worker(code=code)
    job_id = ask(bench, "a")
    assert worker.wait(20) == -signal.SIGKILL
    settle_worker(bench.redis, worker.name, bench.settings)
    left = TAKEN if moment == "hand_back" else LANE
    assert bench.redis.lrange(left, 0, -1) == [job_id.encode()]
    reaper = bench.reaper()
    until(lambda: reaper.sweep() or bench.redis.llen(LANE))
    bench.start_worker()
    assert isinstance(bench.end(job_id), Done)
    assert bench.redis.hget(StrictJob.key_for(job_id), "attempt") == b"1"


def test_a_job_that_is_cancelled_on_its_way_home_does_not_run(bench: Bench) -> None:
    bench.ready(bench.start_worker())
    a_home_that_never_takes(bench, "a")
    job_id = ask(bench, "a", LONG)
    bench.redis.set(keys.cancelled(job_id), 1)
    bench.redis.xadd(keys.control("echo"), {"j": job_id})
    assert bench.end(job_id, seconds=2).code == "cancelled"


def test_batch_jobs_run_where_there_is_room(bench: Bench) -> None:
    bench.ready(bench.start_worker(code=NEVER_LOOKS))
    a_home_that_never_takes(bench, "a")
    run(bench, "a", lane="batch")


def test_a_worker_without_a_replica_looks_for_no_home(bench: Bench) -> None:
    bench.ready(bench.start_worker(code=NEVER_LOOKS))
    bench.redis.set(home("a"), "another")
    run(bench, "a")
