"""More workers and fewer, while requests run."""

import threading
from collections.abc import Callable

from shared import keys
from shared.channel import parse_id
from tests.fleet.conftest import Fleet, until

ECHO = '[[model]]\nid = "echo"\nengine = "echo"\nmax_concurrency = 2\noptions = { step_ms = 20 }\n'


def test_scaling_up_and_down_under_load_loses_and_doubles_nothing(serve: Callable[..., Fleet]):
    fleet = serve(ECHO)
    ended = threading.Event()
    answers: list[tuple[int, str, str, str]] = []

    def client(number: int) -> None:
        count = 0
        while not ended.is_set():
            text = f"client {number} asks {count}"
            answer = fleet.chat("echo", text)
            said = answer.json()["choices"][0]["message"]["content"] if answer.is_success else answer.text
            answers.append((answer.status_code, text, said, answer.headers.get("x-job-id", "")))
            count += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(answers) > 10)
        assert fleet.settle("load", "echo", replicas=3)["status"] == "completed"
        assert fleet.health("echo")["replicas"] == 3
        until(lambda: all(_has_work(fleet, worker.pid) for worker in fleet.workers("echo")))
        count = len(answers)
        until(lambda: len(answers) > count + 40)
        assert fleet.settle("load", "echo", replicas=1)["status"] == "completed"
        assert len(fleet.workers("echo")) == 1
        count = len(answers)
        until(lambda: len(answers) > count + 10)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert {status for status, _, _, _ in answers} == {200}
    assert [said for _, _, said, _ in answers] == [text for _, text, _, _ in answers]
    assert len({job for _, _, _, job in answers}) == len(answers)
    for _, _, _, job in answers:  # each was run by one worker, once
        entries = [parse_id(entry) for entry, _ in fleet.redis.xrange(keys.events(job))]
        assert {attempt for attempt, _ in entries[:-1]} == {1}


def _has_work(fleet: Fleet, pid: int) -> bool:
    records = (fleet.redis.hgetall(keys.worker(name.decode())) for name in fleet.redis.smembers(keys.WORKERS))
    return any(int(record[b"pid"]) == pid and int(record[b"running"]) for record in records if record)


def test_replicas_that_the_file_asks_for_are_started_as_far_as_they_fit(serve: Callable[..., Fleet]):
    fleet = serve(ECHO.replace("max_concurrency = 2", "replicas = 4"), OMINIX_MEMORY_BUDGET_MB="200")
    assert fleet.health("echo")["replicas"] == 3
    assert len(fleet.workers("echo")) == 3
