"""A line that is as long as it may be."""

from pathlib import Path

import httpx

from tests.api.asking import CHAT, chat
from tests.live import Live, until

FULL = "max_waiting = 2\noptions = { step_ms = 100 }"
SLOTS = 16


def test_a_full_line_is_a_429_that_says_when_to_come_back(tmp_path: Path) -> None:
    live = Live(tmp_path, FULL, OMINIX_DRAIN_TIMEOUT="1")
    with live as system, httpx.Client(base_url=system.url, timeout=20) as http:
        job = {"endpoint": CHAT, "body": chat("a", script={"tokens": 600})}
        for _ in range(SLOTS):
            until(lambda: http.post("/v1/jobs", json=job).status_code == 202)  # as fast as they are taken
        until(lambda: len(http.get("/v1/jobs?status=in_progress&limit=100").json()["data"]) == SLOTS)
        waiting = [http.post("/v1/jobs", json=job) for _ in range(2)]
        answer = http.post(CHAT, json=chat("a"))
        positions = [http.get(f"/v1/jobs/{each.json()['id']}").json()["position"] for each in waiting]
        for each in http.get("/v1/jobs?limit=100").json()["data"]:
            http.delete(f"/v1/jobs/{each['id']}")

    assert positions == [1, 2]
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
