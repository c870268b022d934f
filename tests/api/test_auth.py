import httpx
import pytest

from tests.api.asking import CHAT, chat
from tests.api.conftest import ServeApp

ELSEWHERE = {"origin": "https://elsewhere.example"}
JOB = {"endpoint": CHAT, "body": chat()}


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer wrong", "Basic key-1", "Bearer key-1x"])
async def test_without_a_known_key_nothing_is_answered(serve_app: ServeApp, value: str) -> None:
    async with serve_app(api_keys="key-1, key-2") as client:
        answer = await client.post(CHAT, json=chat(), headers={"authorization": value})

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["key-1", "key-2"])
async def test_each_configured_key_opens(serve_app: ServeApp, key: str) -> None:
    async with serve_app(api_keys="key-1, key-2") as client:
        headers = ELSEWHERE | {"authorization": f"Bearer {key}"}
        answer = await client.post("/v1/jobs", json=JOB, headers=headers)
    assert answer.status_code == 202


async def test_health_and_docs_need_no_key(serve_app: ServeApp) -> None:
    async with serve_app(api_keys="key-1") as client:
        assert [(await client.get(path)).status_code for path in ("/health", "/docs")] == [200, 200]


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "127.1.2.3:1", "[::1]:8080", "ui.localhost"])
def test_loopback_names_are_answered(http: httpx.Client, host: str) -> None:
    assert http.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.2:8080", "localhost@evil"]
)
def test_other_names_are_refused_without_keys(http: httpx.Client, host: str) -> None:
    answer = http.get("/v1/models", headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")


async def test_a_server_on_all_interfaces_answers_to_any_name(serve_app: ServeApp) -> None:
    async with serve_app(host="0.0.0.0") as client:
        assert (await client.get("/health", headers={"host": "mac.local"})).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/health")])
def test_pages_of_other_sites_may_ask_for_inference(http: httpx.Client, method: str, path: str) -> None:
    body = chat() if method == "POST" else None
    assert http.request(method, path, json=body, headers=ELSEWHERE).status_code == 200


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://localhost.evil.example"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("DELETE", "/v1/models/echo")]
)
def test_pages_of_other_sites_may_not_manage(http: httpx.Client, origin: str, method: str, path: str) -> None:
    answer = http.request(method, path, headers={"origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")


def test_pages_of_other_sites_may_not_make_jobs_of_requests(http: httpx.Client) -> None:
    answer = http.post(CHAT, json=chat(), headers=ELSEWHERE | {"prefer": "respond-async"})
    assert answer.status_code == 403


def test_pages_of_this_machine_may_do_everything(http: httpx.Client) -> None:
    assert http.get("/v1/jobs", headers={"origin": "http://localhost:3000"}).status_code == 200


def test_any_page_may_read_answers_and_their_headers(http: httpx.Client) -> None:
    headers = http.post(CHAT, json=chat(), headers=ELSEWHERE).headers
    assert headers["access-control-allow-origin"] == "*"
    exposed = headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "x-job-id", "retry-after"} <= set(exposed)


def test_a_preflight_allows_the_headers_of_the_sdks(http: httpx.Client) -> None:
    asked = {"access-control-request-headers": "x-stainless-os,x-evil"}
    answer = http.options(CHAT, headers=ELSEWHERE | asked)
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")

    assert answer.status_code == 204
    assert {"authorization", "content-type", "idempotency-key", "prefer", "x-stainless-os"} <= set(allowed)
    assert "x-evil" not in allowed


async def test_a_preflight_needs_no_key(serve_app: ServeApp) -> None:
    async with serve_app(api_keys="key-1") as client:
        assert (await client.options(CHAT, headers=ELSEWHERE)).status_code == 204


async def test_narrowed_origins_are_named_and_others_refused(serve_app: ServeApp) -> None:
    async with serve_app(cors_origins="https://a.example, https://b.example") as client:
        named = await client.post(CHAT, json=chat(), headers={"origin": "https://b.example"})
        other = await client.post(CHAT, json=chat(), headers=ELSEWHERE)

    assert named.headers["access-control-allow-origin"] == "https://b.example"
    assert named.headers["vary"] == "Origin"
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers
