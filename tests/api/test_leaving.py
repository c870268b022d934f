"""Who leaves, and what becomes of the work."""

from pathlib import Path

import httpx
import pytest

from tests.api.asking import CHAT, chat, events
from tests.live import until

ENDLESS = {"tokens": 1_000_000}


def newest(http: httpx.Client) -> dict:
    return http.get("/v1/jobs", params={"limit": 1}).json()["data"][0]


def leave_early(http: httpx.Client, **headers: str) -> None:
    """Ask for a whole answer that takes long, and hang up once it is being made."""
    with pytest.raises(httpx.ReadTimeout):
        http.post(CHAT, json=chat(script={"hang_at": 2, "hang_ms": 600}), timeout=0.3, headers=headers)


def test_a_client_that_leaves_takes_its_job_with_it(http: httpx.Client) -> None:
    leave_early(http)
    until(lambda: newest(http)["status"] == "cancelled")


def test_a_client_that_leaves_a_stream_takes_its_job_with_it(http: httpx.Client) -> None:
    with http.stream("POST", CHAT, json=chat(stream=True, script=ENDLESS)) as answer:
        next(answer.iter_raw())
        job_id = answer.headers["x-job-id"]

    until(lambda: http.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled")


def test_a_job_with_an_idempotency_key_outlives_its_client(http: httpx.Client, tmp_path: Path) -> None:
    leave_early(http, **{"idempotency-key": str(tmp_path)})
    until(lambda: newest(http)["status"] == "completed")


def test_a_second_reader_keeps_the_job_alive(http: httpx.Client) -> None:
    script = {"tokens": 4, "hang_at": 3, "hang_ms": 800}
    with http.stream("POST", CHAT, json=chat("w", stream=True, script=script)) as first:
        beginning = first.iter_raw()  # dropping it would close the connection
        next(beginning)
        with http.stream("GET", f"/v1/jobs/{first.headers['x-job-id']}/events") as second:
            pieces = second.iter_text()
            seen = next(pieces)
            beginning.close()
            seen += "".join(pieces)

    assert events(seen)[-1]["event"] == "done"
