import logging
import socket
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
import redis
from sanic import Sanic

from tests.api.asking import CHAT, SPEECH, chat
from tests.api.conftest import ServeApp
from tests.live import Live

KEYS = {"message", "type", "param", "code"}
SECRET = "the prompt that no log may show"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("GET", "/nope", None, 404, "not_found", None),
        ("PUT", "/v1/models", None, 405, "method_not_allowed", None),
        ("POST", CHAT, b"", 400, "invalid_value", None),
        ("POST", CHAT, b"{", 400, "invalid_value", None),
        ("POST", CHAT, b"[]", 400, "invalid_value", None),
        ("POST", CHAT, b'{"model": "\\ud800"}', 400, "invalid_value", None),
        ("POST", CHAT, b"[" * 100_000, 400, "invalid_value", None),
        ("POST", CHAT, b"{}", 400, "missing_required_parameter", "model"),
        ("POST", CHAT, orjson.dumps(chat(temperature=9)), 400, "invalid_value", "temperature"),
        ("POST", CHAT, orjson.dumps(chat(store=True)), 400, "unsupported_value", "store"),
        ("POST", CHAT, orjson.dumps(chat(model="nope")), 404, "model_not_found", "model"),
        ("POST", CHAT, orjson.dumps(chat(model="unserved")), 503, "model_unavailable", None),
        ("POST", CHAT, b" " * (5 << 20), 413, "payload_too_large", None),
        ("POST", SPEECH, b"[]", 400, "invalid_value", None),
        ("POST", SPEECH, b"{}", 400, "missing_required_parameter", "model"),
        ("POST", SPEECH, b'{"model": "echo"}', 400, "missing_required_parameter", "file"),
        ("GET", "/v1/models/nope", None, 404, "model_not_found", "model"),
        ("GET", "/v1/models/absent", None, 404, "model_not_found", "model"),
        ("GET", "/v1/jobs/job-nope", None, 404, "not_found", None),
        ("DELETE", "/v1/jobs/job-nope", None, 404, "not_found", None),
        ("GET", "/v1/jobs/job-nope/result", None, 404, "not_found", None),
        ("GET", "/v1/jobs/job-nope/events", None, 404, "not_found", None),
        ("GET", "/v1/jobs?limit=0", None, 400, "invalid_value", "limit"),
        ("GET", "/v1/jobs?status=lost", None, 400, "invalid_value", "status"),
        ("GET", "/v1/jobs?after=job-nope", None, 404, "not_found", "after"),
    ],
)
def test_each_error_has_its_status_and_the_four_keys(
    http: httpx.Client, method: str, path: str, body: bytes | None, status: int, code: str, param: str | None
) -> None:
    answer = http.request(method, path, content=body)
    error = answer.json()["error"]

    assert answer.status_code == status
    assert error.keys() == KEYS
    assert (error["code"], error["param"]) == (code, param)
    assert answer.headers["x-request-id"]


def test_an_unknown_path_is_told_what_there_is(http: httpx.Client) -> None:
    assert "/v1/chat/completions" in http.get("/v1/nope").json()["error"]["message"]


def test_a_wrong_method_is_told_the_right_ones(http: httpx.Client) -> None:
    assert http.put("/v1/models").headers["allow"] == "GET"


def test_a_model_that_nobody_serves_says_when_to_try_again(http: httpx.Client) -> None:
    assert int(http.post(CHAT, json=chat(model="unserved")).headers["retry-after"]) > 0


def test_a_body_of_unknown_length_is_refused_while_it_is_read(http: httpx.Client) -> None:
    pieces = (b" " * (1 << 20) for _ in range(8))
    assert http.post(CHAT, content=pieces).status_code == 413


def test_the_connection_serves_on_after_a_refused_body(http: httpx.Client) -> None:
    assert http.post(CHAT, content=b" " * (6 << 20)).status_code == 413
    assert http.post(CHAT, json=chat()).status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", ""])
def test_json_is_read_whatever_its_content_type_says(http: httpx.Client, content_type: str) -> None:
    answer = http.post(CHAT, content=orjson.dumps(chat("hi")), headers={"content-type": content_type})
    assert answer.json()["choices"][0]["message"]["content"] == "hi"


@pytest.mark.parametrize("head", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n"])
def test_what_is_not_http_is_a_400_with_the_four_keys(live: Live, head: bytes) -> None:
    url = urlsplit(live.url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(head)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 400")
    assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"].keys() == KEYS


@pytest.mark.parametrize(
    ("offered", "kept"), [("trace-1:a/b", True), ("two words", False), ("x" * 200, False)]
)
def test_a_sane_request_id_is_kept(http: httpx.Client, offered: str, kept: bool) -> None:
    answer = http.get("/health", headers={"x-request-id": offered})
    assert (answer.headers["x-request-id"] == offered) is kept


async def test_an_unexpected_error_is_logged_once_without_its_words(
    serve_app: ServeApp, caplog: pytest.LogCaptureFixture
) -> None:
    def extend(app: Sanic) -> None:
        @app.get("/broken")
        async def broken(request):
            raise KeyError(SECRET)

    with caplog.at_level(logging.INFO):
        async with serve_app(extend) as client:
            answer = await client.get("/broken", headers={"x-request-id": "trace-2"})

    assert answer.status_code == 500
    assert answer.json()["error"] | {"message": ""} == {
        "message": "", "type": "server_error", "param": None, "code": "engine_error"
    }
    logged = [record.getMessage() for record in caplog.records if "trace-2" in record.getMessage()]
    assert len(logged) == 1
    assert "KeyError" in logged[0]
    assert SECRET not in caplog.text + answer.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (redis.ConnectionError("refused"), 503),
        (redis.BusyLoadingError(), 503),
        (redis.exceptions.OutOfMemoryError(), 503),
        (OSError(28, "No space left on device"), 507),
    ],
)
async def test_what_is_gone_or_full_says_so(serve_app: ServeApp, error: Exception, status: int) -> None:
    def extend(app: Sanic) -> None:
        @app.get("/broken")
        async def broken(request):
            raise error

    async with serve_app(extend) as client:
        answer = await client.get("/broken")

    assert answer.status_code == status
    assert ("retry-after" in answer.headers) is (status == 503)
