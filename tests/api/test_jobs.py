import json
import uuid

import httpx
import pytest

from shared import keys
from tests.api.asking import CHAT, SPEECH, chat, events
from tests.live import until

SLOW = {"hang_at": 2, "hang_ms": 3000, "tokens": 5}


def submit(http: httpx.Client, **fields) -> dict:
    answer = http.post("/v1/jobs", json={"endpoint": CHAT, "body": chat(**fields)})
    assert answer.status_code == 202
    return answer.json()


def wait(http: httpx.Client, job_id: str) -> dict:
    def ended() -> bool:
        return http.get(f"/v1/jobs/{job_id}").json()["finished_at"] is not None

    until(ended)
    return http.get(f"/v1/jobs/{job_id}").json()


def test_a_job_is_answered_at_once_and_done_later(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", json={"endpoint": CHAT, "body": chat("a b")})
    job = answer.json()

    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["x-job-id"] == job["id"]
    assert (job["object"], job["endpoint"], job["model"]) == ("job", CHAT, "echo")
    assert wait(http, job["id"])["status"] == "completed"


def test_the_result_is_what_the_synchronous_call_answers(http: httpx.Client) -> None:
    answer = http.post(CHAT, json=chat("a b"))
    result = http.get(f"/v1/jobs/{answer.headers['x-job-id']}/result")

    assert result.content == answer.content
    assert result.headers["content-type"] == answer.headers["content-type"]


def test_an_unfinished_result_is_a_conflict_that_is_not_tried_again(http: httpx.Client) -> None:
    job = submit(http, script=SLOW)
    answer = http.get(f"/v1/jobs/{job['id']}/result")
    http.delete(f"/v1/jobs/{job['id']}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert answer.headers["x-should-retry"] == "false"


def test_a_failed_job_answers_with_its_own_error(http: httpx.Client) -> None:
    job = submit(http, script={"fail_at": 1})
    failed = wait(http, job["id"])
    answer = http.get(f"/v1/jobs/{job['id']}/result")

    assert failed["status"] == "failed"
    assert answer.status_code == 500
    assert answer.json()["error"] == failed["error"]


@pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("POST", "/cancel")])
def test_a_job_can_be_cancelled(http: httpx.Client, method: str, path: str) -> None:
    job = submit(http, script={"tokens": 100_000})
    answer = http.request(method, f"/v1/jobs/{job['id']}{path}")

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert http.get(f"/v1/jobs/{job['id']}/result").status_code == 499


def test_a_multipart_job_carries_its_file(http: httpx.Client) -> None:
    data = {"endpoint": SPEECH, "model": "echo"}
    job = http.post("/v1/jobs", files={"file": b"x" * 100}, data=data).json()
    wait(http, job["id"])

    assert http.get(f"/v1/jobs/{job['id']}/result").json()["text"].startswith("100 bytes of")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"body": {}}, "missing_required_parameter", "endpoint"),
        ({"endpoint": CHAT}, "missing_required_parameter", "body"),
        ({"endpoint": "/v1/nope", "body": {}}, "unsupported_value", "endpoint"),
        ({"endpoint": SPEECH, "body": {"model": "echo"}}, "missing_required_parameter", "file"),
        ({"endpoint": CHAT, "body": {"model": "echo"}}, "missing_required_parameter", "messages"),
        ({"endpoint": CHAT, "body": {}, "webhook_url": "http://a"}, "unsupported_value", "webhook_url"),
    ],
)
def test_a_wrong_job_is_told_which_field(http: httpx.Client, body: dict, code: str, param: str) -> None:
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


def test_a_chat_job_cannot_be_a_form(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", files={"file": b"x"}, data={"endpoint": CHAT, "model": "echo"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "endpoint")


@pytest.mark.parametrize("stream", [False, True])
def test_prefer_respond_async_makes_any_request_a_job(http: httpx.Client, stream: bool) -> None:
    prefer = {"prefer": "wait=1, respond-async"}
    answer = http.post(CHAT, json=chat(stream=stream), headers=prefer)

    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert wait(http, answer.json()["id"])["status"] == "completed"


def test_the_same_idempotency_key_gives_the_same_job(http: httpx.Client) -> None:
    key = {"idempotency-key": uuid.uuid4().hex}
    first, second = (http.post(CHAT, json=chat(), headers=key) for _ in range(2))
    other = http.post(CHAT, json=chat("else"), headers=key)

    assert first.content == second.content
    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    assert other.status_code == 409


def test_an_idempotency_key_has_a_limit(http: httpx.Client) -> None:
    answer = http.post(CHAT, json=chat(), headers={"idempotency-key": "k" * 256})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_events_are_replayed_from_the_start(http: httpx.Client) -> None:
    job = submit(http, text="a b c")
    wait(http, job["id"])
    *deltas, last = events(http.get(f"/v1/jobs/{job['id']}/events").text)

    assert "".join(json.loads(delta["data"])["text"] for delta in deltas) == "a b c"
    assert (last["event"], last["id"]) == ("done", keys.END_ID)


def test_events_go_on_after_the_last_one_seen(http: httpx.Client) -> None:
    job = submit(http, script={"tokens": 4, "hang_at": 3, "hang_ms": 100})
    wait(http, job["id"])
    url = f"/v1/jobs/{job['id']}/events"
    first, *rest = events(http.get(url).text)

    assert events(http.get(url, headers={"last-event-id": first["id"]}).text) == rest
    assert http.get(url, headers={"last-event-id": keys.END_ID}).status_code == 204


@pytest.mark.parametrize("bad", ["x", "1", "-1-2", "1-2-3", "99999999999999999999999-1"])
def test_a_bad_last_event_id_is_a_400(http: httpx.Client, bad: str) -> None:
    job = submit(http)
    answer = http.get(f"/v1/jobs/{job['id']}/events", headers={"last-event-id": bad})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_jobs_are_listed_newest_first_and_page_by_page(http: httpx.Client) -> None:
    ids = [submit(http)["id"] for _ in range(3)]
    page = http.get("/v1/jobs", params={"limit": 2, "model": "echo-alias"}).json()
    after = http.get("/v1/jobs", params={"limit": 1, "after": page["last_id"]}).json()

    assert [job["id"] for job in page["data"]] == ids[:0:-1]
    assert page["has_more"]
    assert after["data"][0]["id"] == ids[0]
