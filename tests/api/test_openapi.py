import re

import httpx
import orjson
import pytest

from api import routes
from api.openapi import document
from shared.tasks import by_endpoint

REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')


@pytest.fixture(scope="module")
def api() -> dict:
    return document(routes.modules())


def test_every_reference_is_defined(api: dict) -> None:
    assert set(REFERENCE.findall(orjson.dumps(api).decode())) <= api["components"]["schemas"].keys()


def test_every_task_is_described_by_its_request(api: dict) -> None:
    assert by_endpoint().keys() <= api["paths"].keys()
    assert "temperature" in api["components"]["schemas"]["ChatRequest"]["properties"]
    body = api["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]
    assert list(body["content"]) == ["multipart/form-data", "application/json"]


def test_every_endpoint_is_documented(http: httpx.Client, api: dict) -> None:
    message = http.get("/nope").json()["error"]["message"]
    served = set(re.findall(r"/[\w/{}.]*\w}?", message.partition("Endpoints: ")[2]))

    assert served - {"/docs", "/openapi.json"} == set(api["paths"])


def test_the_page_shows_every_path_and_needs_nothing_from_elsewhere(http: httpx.Client, api: dict) -> None:
    page = http.get("/docs")

    assert all(f"<code>{path}</code>" in page.text for path in api["paths"])
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", page.text)
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_the_document_is_served(http: httpx.Client, api: dict) -> None:
    assert http.get("/openapi.json").json() == api
