"""Models come when they are asked for, and go when nobody needs them."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from shared.channel import is_before_work
from tests.fleet.conftest import ROOT, Fleet, until

MODELS = """
[[model]]
id = "here"
engine = "echo"

[[model]]
id = "later"
engine = "echo"
replicas = 0
options = { load_ms = 300 }

[[model]]
id = "brief"
engine = "echo"
replicas = 0
keep_alive = 0.5

[[model]]
id = "huge"
engine = "echo"
options = { ballast_mb = 5000 }

[[model]]
id = "broken"
engine = "echo"
replicas = 0
options = { no_such_option = 1 }
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet") / "home", MODELS, OMINIX_MEMORY_BUDGET_MB="400")
    yield fleet
    fleet.stop()


def test_what_does_not_fit_is_not_started_and_what_is_not_wanted_does_not_degrade(fleet: Fleet):
    assert "huge             | a worker takes about 4.9 GiB: not all fit into 400 MiB" in fleet.said
    health = fleet.client.get("/health").json()
    assert health["status"] == "ok"
    assert {name: model["replicas"] for name, model in health["models"].items()} == {
        "here": 1, "later": 0, "brief": 0, "huge": 0, "broken": 0,
    }  # fmt: skip


def test_a_request_for_a_model_that_is_not_loaded_loads_it_and_its_job_says_so(fleet: Fleet):
    fleet.settle("unload", "later")
    job_id = fleet.submit("later", "one two")
    assert fleet.end(job_id)["status"] == "completed"
    entries = fleet.events(job_id)
    told = [json.loads(data) for entry, data in entries if is_before_work(entry)]
    assert {event["data"]["load"]["state"] for event in told} >= {"starting"}
    assert {event["data"]["load"]["model"] for event in told} == {"later"}
    assert entries[len(told)][0] == "1-1"
    shown = fleet.client.get(f"/v1/jobs/{job_id}/events").text
    assert shown.startswith("id: 0-1\nevent: delta\n") and '"load"' in shown


@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_itself_says_nothing_of_the_loading(fleet: Fleet, stream: bool):
    fleet.settle("unload", "later")
    body = {"model": "later", "messages": [{"role": "user", "content": "one two"}], "stream": stream}
    answer = fleet.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert '"load"' not in answer.text and "one" in answer.text


def test_an_idle_model_is_unloaded_after_its_keep_alive_and_comes_back(fleet: Fleet):
    assert fleet.chat("brief").status_code == 200
    until(lambda: fleet.health("brief")["state"] == "unloaded" and not fleet.workers("brief"))
    assert fleet.chat("brief").status_code == 200
    assert fleet.workers("here")


def test_what_can_never_fit_is_refused_with_its_need_and_the_budget(fleet: Fleet):
    answer = fleet.chat("huge")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_unavailable"
    assert "about 4.9 GiB of a budget of 400 MiB" in error["message"]
    assert "OMINIX_MEMORY_BUDGET_MB" in error["message"]
    job = fleet.settle("load", "huge")
    assert (job["status"], job["error"]["code"]) == ("failed", "model_unavailable")


def test_a_model_that_dies_while_it_loads_is_refused_with_its_last_words(fleet: Fleet):
    answer = fleet.chat("broken")
    assert answer.status_code == 503
    assert "no_such_option" in answer.json()["error"]["message"]
    until(lambda: not fleet.workers("broken"))
    until(lambda: fleet.health("broken")["state"] == "unloaded")


def test_replicas_can_be_asked_for_and_are_kept_by_a_load_without_them(fleet: Fleet):
    assert fleet.settle("load", "here", replicas=2)["status"] == "completed"
    assert len(fleet.workers("here")) == 2
    assert fleet.settle("load", "here")["status"] == "completed"
    assert len(fleet.workers("here")) == 2
    assert fleet.settle("load", "here", replicas=1)["status"] == "completed"
    assert len(fleet.workers("here")) == 1


@pytest.mark.parametrize(
    ("what", "body", "status"),
    [
        ("load", {"model": "nobody"}, 404),
        ("unload", {"model": "nobody"}, 404),
        ("load", {"model": "here", "replicas": 0}, 400),
        ("load", {}, 400),
    ],
)
def test_what_is_wrong_is_said_at_once(fleet: Fleet, what: str, body: dict, status: int):
    assert fleet.client.post(f"/v1/models/{what}", json=body).status_code == status


def test_the_commands_wait_until_it_is_done(fleet: Fleet):
    def command(*words: str) -> subprocess.CompletedProcess:
        words = (sys.executable, "-m", "cli", "models", *words, "--url", fleet.url)
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)

    done = command("scale", "here=2", "later=1")
    assert (done.returncode, done.stderr) == (0, "here: 2 workers\nlater: 1 worker\n")
    assert len(fleet.workers("here")) == 2
    assert command("unload", "later").stderr == "later: unloaded\n"
    assert command("load", "here", "--replicas", "1").stderr == "here: 1 worker\n"
    refused = command("load", "huge")
    assert refused.returncode == 1 and "of a budget of 400 MiB" in refused.stderr


def test_a_steward_that_is_killed_while_it_loads_goes_on(fleet: Fleet):
    fleet.settle("unload", "later")
    job_id = fleet.submit("later")
    until(lambda: fleet.events(job_id))
    steward = next(child for child in fleet.children() if child.cmdline()[-1] == "steward")
    steward.kill()
    assert fleet.end(job_id)["status"] == "completed"
    assert fleet.settle("load", "later")["status"] == "completed"


ONE_PLACE = """
[[model]]
id = "a"
engine = "echo"
options = { ballast_mb = 100, step_ms = 20 }

[[model]]
id = "b"
engine = "echo"
replicas = 0
options = { ballast_mb = 100, step_ms = 20 }
"""


def test_a_busy_model_finishes_what_it_runs_before_another_takes_its_place(serve: Callable[..., Fleet]):
    fleet = serve(ONE_PLACE, OMINIX_MEMORY_BUDGET_MB="300")
    running = fleet.submit("a", script='{"tokens": 40, "prepare_ms": 2000}')
    assert fleet.chat("b").status_code == 200
    assert fleet.job(running)["status"] == "completed"
    assert not fleet.workers("a")


def test_a_model_that_is_never_idle_gives_way_after_a_while_and_comes_back(serve: Callable[..., Fleet]):
    fleet = serve(ONE_PLACE, OMINIX_MEMORY_BUDGET_MB="300")
    ended = threading.Event()
    answers: list[int] = []

    def keep_busy() -> None:
        while not ended.is_set():
            answers.append(fleet.chat("a", script='{"prepare_ms": 200}').status_code)

    threads = [threading.Thread(target=keep_busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert fleet.chat("b").status_code == 200
        count = len(answers)
        until(lambda: len(answers) > count + 3)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {200}


def test_a_pinned_model_stays_and_is_named_to_whom_it_is_in_the_way(serve: Callable[..., Fleet]):
    models = ONE_PLACE.replace('id = "a"', 'id = "a"\npinned = true\nkeep_alive = 0.1')
    fleet = serve(models, OMINIX_MEMORY_BUDGET_MB="300")
    answer = fleet.chat("b")
    assert answer.status_code == 503
    assert "would have to go, and are pinned or were started by hand: a (164 MiB)" in answer.text
    assert fleet.workers("a")


def test_a_worker_that_grows_past_its_share_is_replaced_and_its_jobs_are_kept(serve: Callable[..., Fleet]):
    fleet = serve(ONE_PLACE, OMINIX_MEMORY_BUDGET_MB="500", OMINIX_DRAIN_TIMEOUT="0.5")
    [before] = fleet.workers("a")
    long = fleet.submit("a", script='{"tokens": 300, "leak_mb": 200, "prepare_ms": 10}')
    slow = fleet.submit("a", script='{"tokens": 2, "prepare_ms": 4000}')
    until(lambda: "has grown to" in fleet.said, what=fleet.said)
    assert fleet.end(long)["status"] == fleet.end(slow)["status"] == "completed"
    until(lambda: [worker.pid for worker in fleet.workers("a")] not in ([before.pid], []))
    assert fleet.chat("a").status_code == 200
