"""A model is fetched while the system runs, and answers the next request."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.checkpoints import text
from tests.hub import Hub
from tests.system.conftest import System
from workers import memory

pytestmark = pytest.mark.models

ECHO = '[[model]]\nid = "echo"\nengine = "echo"\n'
CHAT = {
    "model": "Tiny",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 5,
    "temperature": 0,
}


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """A system with the echo model, and a hub with a tiny language model."""
    memory.preload_blas()
    folder = text.build(tmp_path / "made", "qwen3")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with Hub({"org/Tiny": files}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "")
        home = tmp_path / "home"
        home.mkdir()
        system = System(home, ECHO)
        yield system
        system.stop()


def events(http: httpx.Client, job_id: str) -> list[dict]:
    """What a job says, to its end."""
    blocks = http.get(f"/v1/jobs/{job_id}/events").text.split("\n\n")
    return [json.loads(block.split("data: ")[1]) for block in blocks if "data: " in block]


def test_a_model_that_was_just_downloaded_answers(serving: System):
    with httpx.Client(base_url=serving.url, timeout=120) as http:
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 404
        job = http.post("/v1/models/download", json={"repo_id": "org/Tiny"}).json()["job_id"]
        assert events(http, job)[-1]["kind"] == "done"
        answer = http.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 5
        waited = events(http, answer.headers["x-job-id"])
        assert any("load" in (event.get("data") or {}) for event in waited)
        refused = http.delete("/v1/models/Tiny")
        assert refused.status_code == 409 and "`ominix models unload Tiny`" in refused.text
        job = http.post("/v1/models/unload", json={"model": "Tiny"}).json()["job_id"]
        assert events(http, job)[-1]["kind"] == "done"
        assert http.delete("/v1/models/Tiny").json() == {"id": "Tiny", "object": "model", "deleted": True}
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 404
        assert http.get("/health").json()["status"] == "ok"
