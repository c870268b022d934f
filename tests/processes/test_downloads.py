"""Models are fetched, listed and deleted while the system runs, from a hub of the test's own by the real
client."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from shared import keys
from tests.hub import Hub
from tests.live import ROOT, Live, until

DOWNLOAD = "/v1/models/download"
MIB = 1 << 20
WEIGHTS = bytes(range(256)) * (8 * MIB // 256)
SMALL = WEIGHTS[:1000]
NEEDED = {"config.json", "model.safetensors", "tokenizer.json"}
HELD = """
[[model]]
id = "held"
engine = "echo"
source = "hf:org/Held"

[[model]]
id = "mine"
engine = "llm"
source = "{folder}"
"""


def repo(weights: bytes = SMALL, **config: object) -> dict[str, bytes]:
    unwanted = {"README.md": b"-", "pytorch_model.bin": SMALL, "onnx/model.onnx": SMALL}
    return unwanted | {
        "config.json": json.dumps({"model_type": "llama"} | config).encode(),
        "model.safetensors": weights,
        "tokenizer.json": b"{}",
    }


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    names = ("Slow", "Killed", "Stopped", "Raced", "Typed", "Terminal", "Aborted")
    repos = {f"org/{name}": repo(WEIGHTS) for name in names}
    repos |= {f"org/{name}": repo() for name in ("Held", "Gone", "Direct", "Closed")}
    repos["org/Ears"] = repo(model_type="qwen3_asr")
    repos["org/Mouth"] = repo(model_type="kokoro")
    repos["org/Vectors"] = repo(model_type="qwen3") | {"modules.json": b"[]"}
    repos["org/Huge"] = repo() | {"huge.safetensors": SMALL}
    repos["org/Pickled"] = {"config.json": b"{}", "pytorch_model.bin": SMALL}
    with Hub(repos, gated={"org/Closed"}) as hub:
        hub.claims["huge.safetensors"] = 10**15
        hub.down.add("org/Offline")
        yield hub


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Live]:
    home = tmp_path_factory.mktemp("downloads")
    folder = home / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    environ = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "", "OMINIX_LEASE": "3"}
    with Live(home, HELD.format(folder=folder), **environ) as system:
        system.start("reaper", "reaper")
        start_steward(system)
        yield system


@pytest.fixture
def http(system: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=system.url, timeout=30) as client:
        yield client


@pytest.fixture
def held(hub: Hub) -> Iterator[None]:
    """The hub waits in the middle of the weights."""
    hub.hold_after = 5 * MIB
    yield
    hub.hold_after = None


def start_steward(system: Live) -> None:
    process = system.start("steward", "steward")
    with redis.Redis.from_url(system.redis_url) as store:
        until(lambda: (process.pid, b"ready") in [said(store, name) for name in store.smembers(keys.WORKERS)])


def said(store: redis.Redis, worker: bytes) -> tuple[int, bytes | None]:
    pid, state = store.hmget(keys.worker(worker.decode()), "pid", "state")
    return int(pid or 0), state


def pull(http: httpx.Client, repo_id: str, **fields: str) -> str:
    """The id of the job."""
    answer = http.post(DOWNLOAD, json={"repo_id": repo_id} | fields)
    assert answer.status_code == 202, answer.text
    return answer.json()["job_id"]


def chat(model: str) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}]}


def end(http: httpx.Client, job_id: str) -> dict:
    http.get(f"/v1/jobs/{job_id}/events")  # which end with the job
    return job(http, job_id)


def job(http: httpx.Client, job_id: str) -> dict:
    return http.get(f"/v1/jobs/{job_id}").json()


def listed(http: httpx.Client) -> dict[str, dict]:
    return {model["id"]: model for model in http.get("/v1/models").json()["data"]}


def fetchers(system: Live) -> list[psutil.Process]:
    """The processes that download for this system."""
    models = str(system.settings.models_dir)
    every = psutil.process_iter(["cmdline"])
    return [each for each in every if {"workers.fetching", models} <= set(each.info["cmdline"] or ())]


def half_way(http: httpx.Client, job_id: str, size: int = 4 * MIB) -> dict:
    """Wait until so many bytes are there; what is said then."""
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as events:
        for line in events.iter_lines():
            event = json.loads(line[6:]) if line.startswith("data: ") else {}
            news = (event.get("data") or {}).get("download", {})
            if news.get("bytes", 0) >= size:
                return news
    raise AssertionError("it has ended")


def test_a_model_comes_with_bytes_and_speed_and_is_there_only_when_whole(http, hub, system, held):
    hub.hold_after = 2 * MIB
    job_id = pull(http, "org/Slow")
    half_way(http, job_id, MIB)
    hub.hold_after = 5 * MIB
    assert half_way(http, job_id)["speed"] > 0
    assert "Slow" not in listed(http)
    assert http.get("/v1/models/Slow").status_code == 404
    assert 0.4 < job(http, job_id)["progress"] < 0.8
    hub.hold_after = None
    end(http, job_id)
    blocks = http.get(f"/v1/jobs/{job_id}/events").text.split("\n\n")
    events = [json.loads(block.split("data: ")[1]) for block in blocks if "data: " in block]
    *said, done = [event for event in events if event["kind"] != "delta" or "data" in event]
    news = [event["data"]["download"] for event in said if event["data"]["download"]["total"]]
    sizes = [each["bytes"] for each in news]
    assert sizes == sorted(sizes)
    assert {each["total"] for each in news} == {sum(len(hub.repos["org/Slow"][name]) for name in NEEDED)}
    assert done["result"]["id"] == "Slow"
    folder = Path(listed(http)["Slow"]["path"])
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {*NEEDED, "ominix.json"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    asked = http.post("/v1/chat/completions", json=chat("org/Slow"))
    assert "No worker serves 'Slow' now" in asked.text


def test_the_steward_is_no_model(http):
    assert "steward" not in http.get("/health").json()["models"]
    assert "steward" not in listed(http)
    assert http.get("/v1/models/steward").status_code == 404


def test_the_kind_of_a_model_is_read_from_its_config(http):
    jobs = [pull(http, f"org/{name}") for name in ("Ears", "Mouth", "Vectors")]
    ends = [end(http, job_id) for job_id in jobs]
    assert [each["status"] for each in ends] == ["completed"] * 3
    models = listed(http)
    assert models["Ears"]["model_type"] == "asr"
    assert models["Ears"]["endpoints"] == ["/v1/audio/transcriptions", "/v1/audio/translations"]
    assert models["Vectors"]["endpoints"] == ["/v1/embeddings"]
    assert (models["Mouth"]["model_type"], models["Mouth"]["endpoints"]) == ("tts", [])
    refused = http.post("/v1/chat/completions", json=chat("Mouth"))
    assert refused.status_code == 400 and "No engine here serves models of the kind 'tts'" in refused.text


def test_a_download_outlives_its_steward_and_goes_on_where_it_was(http, hub, system, held):
    job_id = pull(http, "org/Killed")
    half_way(http, job_id)
    (fetcher,) = fetchers(system)
    system.kill("steward", signal.SIGKILL)
    until(lambda: not fetcher.is_running())
    assert "Killed" not in listed(http)
    hub.hold_after = None
    start_steward(system)
    assert end(http, job_id)["status"] == "completed"
    begun = [start for path, start in hub.ranges if path == "model.safetensors"]
    assert begun and begun[-1] >= MIB
    assert Path(listed(http)["Killed"]["path"], "model.safetensors").read_bytes() == WEIGHTS


def test_a_cancelled_download_stops_at_once_and_the_next_one_goes_on(http, hub, system, held):
    job_id = pull(http, "org/Stopped")
    half_way(http, job_id)
    began = time.monotonic()
    assert http.delete(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"
    until(lambda: not fetchers(system), patience=1.0)
    assert time.monotonic() - began < 2.0
    assert "Stopped" not in listed(http)
    hub.ranges.clear()
    hub.hold_after = None
    assert end(http, pull(http, "org/Stopped"))["status"] == "completed"
    assert [start for _, start in hub.ranges if start] != []


def test_of_requests_at_one_moment_one_wins_and_a_model_that_is_there_is_not_fetched(http, hub, held):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.post(DOWNLOAD, json={"repo_id": "org/Raced"}), range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.headers["x-should-retry"] == "false"
    assert refused.json()["error"]["code"] == "conflict"
    (winner,) = (answer.json() for answer in answers if answer.status_code == 202)
    assert winner.keys() == {"status", "id", "repo_id", "job_id"} and winner["status"] == "downloading"
    assert http.delete("/v1/models/Raced").status_code == 409
    hub.hold_after = None
    assert end(http, winner["job_id"])["status"] == "completed"
    again = http.post(DOWNLOAD, json={"repo_id": "org/Raced"})
    assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")
    assert "is here already" in again.json()["error"]["message"]


def test_what_cannot_be_had_says_what_to_do(http, hub):
    asked = {
        "org/Absent": ({}, "not_found", "no hub repo org/Absent"),
        "org/Closed": (
            {},
            "gated_repo",
            "accept its terms at https://huggingface.co/org/Closed and set HF_TOKEN",
        ),
        "org/Gone": ({"revision": "v9"}, "not_found", "has no revision 'v9'"),
        "org/Offline": ({}, "model_unavailable", "Check the network, then try again"),
        "org/Pickled": ({}, "invalid_value", "no *.safetensors"),
        "org/Huge": ({}, "insufficient_storage", "1000000.0 GB more"),
    }
    jobs = {name: pull(http, name, **fields) for name, (fields, _, _) in asked.items()}
    for name, (_, code, words) in asked.items():
        ended = end(http, jobs[name])
        assert (ended["status"], ended["error"]["code"]) == ("failed", code)
        assert words in ended["error"]["message"], ended
    statuses = [http.get(f"/v1/jobs/{job_id}/result").status_code for job_id in jobs.values()]
    assert statuses == [404, 403, 404, 503, 400, 507]
    assert "free" in http.get(f"/v1/jobs/{jobs['org/Huge']}/result").text
    assert not set(listed(http)) & {"Absent", "Closed", "Gone", "Pickled", "Huge"}
    assert "huge.safetensors" not in hub.sent


def test_a_loaded_model_is_not_deleted_and_one_of_the_models_file_stays_known(http, system):
    assert end(http, pull(http, "org/Held"))["status"] == "completed"
    system.start_worker("held", "holder")
    refused = http.delete("/v1/models/held")
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
    assert "is loaded (process " in refused.json()["error"]["message"]
    assert "held" in listed(http)
    system.kill("holder")
    until(lambda: http.delete("/v1/models/held").status_code == 200)
    assert "held" not in listed(http) and not (system.settings.models_dir / "held").exists()
    assert http.get("/health").json()["models"]["held"]["ready"] == 0
    assert http.get("/v1/models/held").json()["error"]["message"].endswith("has not been downloaded yet.")


def test_a_deleted_model_is_gone(http, system):
    assert end(http, pull(http, "org/Gone"))["status"] == "completed"
    answer = http.delete("/v1/models/org%2FGone")
    assert answer.json() == {"id": "Gone", "object": "model", "deleted": True}
    assert "Gone" not in listed(http)
    assert [path.name for path in system.settings.models_dir.glob("*Gone*")] == [".Gone.lock"]
    gone = http.delete("/v1/models/Gone")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
    kept = http.delete("/v1/models/mine")
    assert kept.status_code == 409 and "does not delete" in kept.text
    assert (system.home / "mine" / "config.json").is_file()


@pytest.mark.parametrize(
    "repo_id",
    ["x", "../x", "org/..", "/etc/passwd", "org/x/y", "org%2Fx", "%2e%2e/x", "org/%2e%2e", "org\\x",
     "org/x\n", "org/ x", "", "org/é", "org/a--b", "org/steward", "./x", "org/.x"],
)  # fmt: skip
def test_an_id_that_is_none_is_refused(http, repo_id):
    answer = http.post(DOWNLOAD, json={"repo_id": repo_id})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "repo_id")


@pytest.mark.parametrize("revision", ["", "../main", "a b", "main\n", "%2e%2e"])
def test_a_revision_that_is_none_is_refused(http, revision):
    answer = http.post(DOWNLOAD, json={"repo_id": "org/Slow2", "revision": revision})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "revision")


@pytest.mark.parametrize(
    "path",
    ["../held", "..%2fheld", "%2e%2e/held", "%2e%2e%2fheld", "%252e%252e%252fheld", "/etc/passwd",
     "%2fetc%2fpasswd", "held/..", "held%2f..%2f..", ".held.lock", "held%00", "held%0a", "~", "org/../held",
     "held/"],
)  # fmt: skip
def test_paths_in_a_deletion_are_refused(system, path):
    host, port = system.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:  # no client that tidies the path
        connection.sendall(
            f"DELETE /v1/models/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] == b"400", answer


# --- the terminal


def ominix(system: Live, *command: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cli", "models", *command],
        cwd=ROOT,
        env=system.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_terminal_pulls_and_removes_by_the_server(http, system):
    where = {"OMINIX_PORT": system.url.rpartition(":")[2], "COLUMNS": "140"}
    pulled = ominix(system, "pull", "org/Terminal@v1", **where)
    assert pulled.returncode == 0 and "Terminal: there" in pulled.stderr
    assert listed(http)["Terminal"]["repo_id"] == "org/Terminal"
    again = ominix(system, "pull", "org/Terminal@v1", **where)
    assert again.returncode == 1 and again.stderr.startswith("ominix: 'Terminal' is here already")
    rows = {line.split()[0]: line.split() for line in ominix(system, "list", **where).stdout.splitlines()}
    assert rows["MODEL"][-1] == "WORKERS" and rows["echo"][-1] == "1"
    assert rows["Terminal"][-4:] == ["hf:org/Terminal@v1", "8.4", "MB", "-"]
    removed = ominix(system, "rm", "Terminal", **where)
    assert (removed.returncode, removed.stdout) == (0, "Terminal: deleted\n")
    assert "Terminal" not in listed(http)
    missing = ominix(system, "pull", "org/Absent", "--url", system.url)
    assert missing.returncode == 1 and "\nominix: Absent: There is no hub repo org/Absent" in missing.stderr


def test_ctrl_c_cancels_what_the_server_fetches(http, system, held):
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "models", "pull", "org/Aborted", "--url", system.url],
        cwd=ROOT,
        env=system.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: any(each["progress"] > 0.2 for each in aborted(http)))
    process.send_signal(signal.SIGINT)
    assert "the same command goes on with it" in process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert [each["status"] for each in aborted(http)] == ["cancelled"]
    assert http.delete("/v1/models/Aborted").status_code == 200  # what had come of it
    assert not list(system.settings.models_dir.glob(".Aborted.download-*"))


def aborted(http: httpx.Client) -> list[dict]:
    jobs = http.get("/v1/jobs", params={"limit": 5}).json()["data"]
    return [each for each in jobs if each["model"] == "Aborted"]


def test_without_a_server_the_terminal_does_it_itself(system, hub, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    where = {"OMINIX_HOME": str(tmp_path), "OMINIX_PORT": str(port)}
    pulled = ominix(system, "pull", "org/Direct", **where)
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "models" / "Direct" / "model.safetensors").read_bytes() == SMALL
    removed = ominix(system, "rm", "Direct", **where)
    assert (removed.returncode, removed.stdout) == (0, "Direct: deleted\n")
    assert not (tmp_path / "models" / "Direct").exists()
    again = ominix(system, "rm", "Direct", **where)
    assert again.returncode == 1 and "no files of a model 'Direct'" in again.stderr
