"""Who may manage models, and what is said where nobody does it."""

import httpx
import pytest

from tests.api.conftest import ServeApp

DOWNLOAD = "/v1/models/download"
ASKED = {"repo_id": "org/Model"}
FOREIGN = {"origin": "https://example.com"}


def test_without_a_steward_it_is_said_how_to_start_one(http: httpx.Client):
    answer = http.post(DOWNLOAD, json=ASKED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert "`ominix steward`" in answer.json()["error"]["message"]


@pytest.mark.parametrize("headers", [FOREIGN, {"origin": "null"}])
def test_pages_of_other_sites_may_not_manage_models(http: httpx.Client, headers):
    answers = [
        http.post(DOWNLOAD, json=ASKED, headers=headers),
        http.delete("/v1/models/echo", headers=headers),
    ]
    assert [answer.json()["error"]["code"] for answer in answers] == ["forbidden_origin"] * 2


async def test_with_keys_it_takes_one(serve_app: ServeApp):
    async with serve_app(api_keys="secret") as client:
        refused = [await client.post(DOWNLOAD, json=ASKED), await client.delete("/v1/models/echo")]
        assert [answer.status_code for answer in refused] == [401, 401]
        key = {"authorization": "Bearer secret"}
        assert (await client.post(DOWNLOAD, json=ASKED, headers=key)).status_code == 503
        assert (await client.delete("/v1/models/nope", headers=key)).status_code == 404


def test_the_models_of_the_engine_without_files_cannot_be_deleted(http: httpx.Client):
    answer = http.delete("/v1/models/echo")
    assert answer.status_code == 409 and answer.headers["x-should-retry"] == "false"
