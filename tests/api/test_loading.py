"""Where workers are started by hand nobody loads models; what is said before an answer is no part of it."""

import json

import httpx
import pytest
import redis

from shared import keys
from shared.events import Delta, Done, encode
from tests.live import Live

SAID = Delta(data={"load": {"state": "loading", "model": "echo"}})


@pytest.mark.parametrize("what", ["load", "unload"])
def test_without_a_supervisor_it_is_said_what_to_start_or_end(http: httpx.Client, what: str) -> None:
    answer = http.post(f"/v1/models/{what}", json={"model": "echo"})
    assert answer.status_code == 503
    assert "`ominix worker echo`" in answer.json()["error"]["message"]


def test_a_model_without_a_worker_is_refused_as_ever(http: httpx.Client) -> None:
    body = {"model": "unserved", "messages": [{"role": "user", "content": "hello"}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert "Start one with `ominix worker unserved`" in answer.text


def test_a_result_is_read_without_what_was_said_before_it(http: httpx.Client, live: Live) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}
    asked = {"prefer": "respond-async"}
    job = http.post("/v1/chat/completions", json=body, headers=asked).json()["id"]
    http.get(f"/v1/jobs/{job}/events")
    with redis.Redis.from_url(live.redis_url) as store:
        entries = store.xrange(keys.events(job))
        store.delete(keys.events(job))  # the same stream again, as if the model had been loaded first
        store.xadd(keys.events(job), {keys.FIELD: encode(SAID)}, id="0-1")
        for entry, fields in entries:
            store.xadd(keys.events(job), fields, id=entry)
    answer = http.get(f"/v1/jobs/{job}/result").json()
    assert answer["choices"][0]["message"]["content"] == "one two"
    shown = http.get(f"/v1/jobs/{job}/events").text
    first, *_ = (json.loads(line[6:]) for line in shown.splitlines() if line.startswith("data: "))
    assert first["data"]["load"]["state"] == "loading"
    assert Done.__struct_config__.tag in shown
