"""The life of the API process, seen from outside."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.asking import CHAT, chat, events
from tests.live import Live, until

SECRET = "wordsthatnologmayshow"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A system whose processes may be ended."""
    with Live(tmp_path_factory.mktemp("mortal"), OMINIX_DRAIN_TIMEOUT="1") as system:
        yield system


def ask(system: Live, pool: ThreadPoolExecutor, stream: bool, hang_ms: int) -> Future[httpx.Response]:
    """Send a request that takes `hang_ms`, and return when a worker has begun to answer it."""
    script = {"tokens": 4, "hang_at": 3, "hang_ms": hang_ms}
    body = chat(SECRET, stream=stream, script=script)
    future = pool.submit(httpx.post, f"{system.url}{CHAT}", json=body, timeout=20)
    running = f"{system.url}/v1/jobs?status=in_progress"
    until(lambda: httpx.get(running).json()["data"])
    return future


@pytest.mark.parametrize("stream", [False, True])
def test_what_runs_is_answered_before_the_server_ends(mortal: Live, stream: bool) -> None:
    with ThreadPoolExecutor() as pool:
        future = ask(mortal, pool, stream, hang_ms=400)
        assert mortal.kill("api") == 0
        mortal.start_api()

    assert future.result().status_code == 200
    assert future.result().text.count(SECRET) >= 4 or stream
    assert "[DONE]" in future.result().text or not stream


@pytest.mark.parametrize("stream", [False, True])
def test_who_would_wait_too_long_is_told_where_the_job_goes_on(mortal: Live, stream: bool) -> None:
    with ThreadPoolExecutor() as pool:
        future = ask(mortal, pool, stream, hang_ms=3000)
        assert mortal.kill("api") == 0
        mortal.start_api()

    answer = future.result()
    job = f"/v1/jobs/{answer.headers['x-job-id']}"
    assert answer.status_code == (200 if stream else 503)
    assert f"{job}/result" in (events(answer.text)[-1]["data"] if stream else answer.text)
    until(lambda: httpx.get(f"{mortal.url}{job}").json()["status"] == "completed")


def test_a_second_signal_does_not_wait(mortal: Live) -> None:
    with ThreadPoolExecutor() as pool:
        future = ask(mortal, pool, stream=False, hang_ms=500)
        mortal.send("api", signal.SIGINT)
        until(lambda: "stopping" in mortal.read_log("api").rpartition("listening")[2])
        assert mortal.kill("api", signal.SIGINT) == 0
        mortal.start_api()

    assert future.result().status_code == 503


def test_idle_connections_do_not_hold_up_the_end(mortal: Live) -> None:
    url = urlsplit(mortal.url)
    with httpx.Client() as client, socket.create_connection((url.hostname, url.port)):
        client.get(f"{mortal.url}/health")
        assert mortal.kill("api") == 0
    mortal.start_api()


def test_the_api_ends_when_its_supervisor_is_gone(mortal: Live) -> None:
    mortal.environ["OMINIX_SUPERVISOR_PID"] = "999999999"
    orphan = mortal.start("orphan", "api")
    del mortal.environ["OMINIX_SUPERVISOR_PID"]

    assert orphan.wait(20) == 0


def test_a_port_that_is_taken_is_said(mortal: Live) -> None:
    port = str(urlsplit(mortal.url).port)
    second = mortal.start("second", "api", "--port", port)

    assert second.wait(20) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in mortal.read_log("second")


def test_no_log_has_a_word_of_what_was_asked(mortal: Live) -> None:
    assert SECRET not in mortal.read_log("api")
    assert "Traceback" not in mortal.read_log("api")


def test_without_redis_requests_are_told_to_come_back(mortal: Live) -> None:
    mortal.kill("redis")

    until(lambda: httpx.get(f"{mortal.url}/health", timeout=20).status_code == 503)  # it looks once a second
    answer = httpx.post(f"{mortal.url}{CHAT}", json=chat(), timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"]

    mortal.start("redis", "redis")
    until(lambda: httpx.post(f"{mortal.url}{CHAT}", json=chat(), timeout=20).status_code == 200)
