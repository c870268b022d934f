"""The ways a recording comes in, and that nothing of a refused one stays."""

import base64
import hashlib
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.api.asking import CHAT, SPEECH, chat
from tests.api.conftest import ServeApp
from tests.live import Live, until

TRANSLATIONS = "/v1/audio/translations"
ELSEWHERE = {"origin": "https://elsewhere.example"}
AUDIO = bytes(range(256)) * 300
MIB = 1 << 20
SIZE = 64 * MIB


@pytest.fixture(scope="module")
def open_live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A system of small limits, with `audio` below its home open to `file_path`."""
    home = tmp_path_factory.mktemp("audio-in")
    for name, content in (("a.wav", AUDIO), ("empty.wav", b""), ("../closed.wav", AUDIO)):
        (home / "audio").mkdir(exist_ok=True)
        (home / "audio" / name).write_bytes(content)
    (home / "audio" / "link.wav").symlink_to(home / "closed.wav")
    with open(home / "audio" / "huge.wav", "wb") as file:
        file.truncate(129 * MIB)
    limits = {"OMINIX_MAX_JSON_MB": "1", "OMINIX_MAX_BASE64_MB": "3", "OMINIX_MAX_UPLOAD_MB": "128"}
    with Live(home, OMINIX_AUDIO_FOLDERS=str(home / "audio"), **limits) as system:
        yield system


@pytest.fixture
def opened(open_live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=open_live.url, timeout=30) as client:
        yield client


@pytest.fixture
def folder(open_live: Live) -> Path:
    return open_live.home / "audio"


def spoken(audio: bytes) -> str:
    """What the echo engine hears in these bytes."""
    return f"{len(audio)}bytesof{hashlib.sha256(audio).hexdigest()}"


def heard(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["text"].replace(" ", "")


def encoded(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def spool(live: Live) -> list[Path]:
    return list(live.settings.blobs_dir.glob("*"))


def finished(http: httpx.Client, job_id: str) -> str:
    until(lambda: http.get(f"/v1/jobs/{job_id}").json()["finished_at"] is not None)
    return heard(http.get(f"/v1/jobs/{job_id}/result"))


# --- base64 in JSON


@pytest.mark.parametrize("endpoint", [SPEECH, TRANSLATIONS])
@pytest.mark.parametrize(
    "text",
    [
        encoded(AUDIO),
        f"data:audio/wav;base64,{encoded(AUDIO)}",
        base64.encodebytes(AUDIO).decode(),
    ],
    ids=["plain", "data URL", "wrapped"],
)
def test_audio_comes_as_base64(opened: httpx.Client, open_live: Live, endpoint: str, text: str) -> None:
    answer = opened.post(endpoint, json={"model": "echo", "file": text, "filename": "a.wav"})
    assert heard(answer) == spoken(AUDIO)
    until(lambda: not spool(open_live))


def test_base64_may_be_longer_than_other_json(opened: httpx.Client) -> None:
    audio = os.urandom(2 * MIB)
    assert heard(opened.post(SPEECH, json={"model": "echo", "file": encoded(audio)})) == spoken(audio)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"file": "ä"}, (400, "invalid_value", "file")),
        ({"file": "abc"}, (400, "invalid_value", "file")),
        ({"file": "QQ==" + "A" * (2 * MIB)}, (400, "invalid_value", "file")),
        ({"file": "data:audio/wav,abc"}, (400, "invalid_value", "file")),
        ({"file": ""}, (400, "invalid_audio", "file")),
        ({"file": 7}, (400, "invalid_value", "file")),
        ({"file": "QQ==", "filename": 7}, (400, "invalid_value", "filename")),
        ({"file": "QQ==", "file_path": "/a.wav"}, (400, "invalid_value", "file_path")),
        ({"file": "QQ==", "temperature": "hot"}, (400, "invalid_value", "temperature")),
        ({"file": "QQ==", "model": "nope"}, (404, "model_not_found", "model")),
        ({"file": "QQ==", "model": "unserved"}, (503, "model_unavailable", None)),
        ({"file": "A" * (4 * MIB)}, (413, "payload_too_large", None)),
        ({"file": "QQ==", "prompt": "A" * (2 * MIB)}, (413, "payload_too_large", None)),
        ({"file": [0] * MIB}, (413, "payload_too_large", None)),
        ({}, (400, "missing_required_parameter", "file")),
    ],
)
@pytest.mark.parametrize("as_job", [False, True], ids=["at once", "as a job"])
def test_refused_json_leaves_nothing(
    opened: httpx.Client, open_live: Live, fields: dict, expected: tuple, as_job: bool
) -> None:
    body = {"model": "echo"} | fields
    url, body = ("/v1/jobs", {"endpoint": SPEECH, "body": body}) if as_job else (SPEECH, body)

    assert error_of(opened.post(url, json=body)) == expected
    assert not spool(open_live)


def test_chat_keeps_its_own_limit(opened: httpx.Client) -> None:
    body = chat("a" * 2 * MIB)
    assert opened.post(CHAT, json=body).status_code == 413
    assert opened.post("/v1/jobs", json={"endpoint": CHAT, "body": body}).status_code == 413


# --- a file of this machine


@pytest.mark.parametrize("endpoint", [SPEECH, TRANSLATIONS])
def test_a_file_below_an_open_folder_is_heard_and_stays(
    opened: httpx.Client, open_live: Live, folder: Path, endpoint: str
) -> None:
    answer = opened.post(endpoint, json={"model": "echo", "file_path": f"{folder}/../audio/a.wav"})

    assert heard(answer) == spoken(AUDIO)
    assert not spool(open_live)
    assert (folder / "a.wav").read_bytes() == AUDIO


def test_a_form_may_name_a_file(opened: httpx.Client, folder: Path) -> None:
    files = {"model": (None, "echo"), "file_path": (None, str(folder / "a.wav"))}
    assert heard(opened.post(SPEECH, files=files)) == spoken(AUDIO)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{folder}/none.wav", (404, "not_found", "file_path")),
        ("{folder}/empty.wav", (400, "invalid_audio", "file_path")),
        ("{folder}/huge.wav", (413, "payload_too_large", "file_path")),
        ("{folder}", (400, "invalid_value", "file_path")),
        ("{folder}/link.wav", (403, "forbidden_path", "file_path")),
        ("{folder}/../closed.wav", (403, "forbidden_path", "file_path")),
        ("/etc/passwd", (403, "forbidden_path", "file_path")),
        ("a.wav", (400, "invalid_value", "file_path")),
        (7, (400, "invalid_value", "file_path")),
    ],
)
def test_a_path_that_may_not_be_used_says_why(
    opened: httpx.Client, folder: Path, path: object, expected: tuple
) -> None:
    path = path.format(folder=folder) if isinstance(path, str) else path
    assert error_of(opened.post(SPEECH, json={"model": "echo", "file_path": path})) == expected


def test_without_an_open_folder_no_path_is_read(http: httpx.Client, tmp_path: Path) -> None:
    answer = http.post(SPEECH, json={"model": "echo", "file_path": str(tmp_path)})
    assert error_of(answer) == (403, "forbidden_path", "file_path")
    assert "OMINIX_AUDIO_FOLDERS" in answer.json()["error"]["message"]


@pytest.mark.parametrize("form", [False, True])
def test_pages_of_other_sites_may_not_name_files(opened: httpx.Client, folder: Path, form: bool) -> None:
    fields = {"model": "echo", "file_path": str(folder / "a.wav")}
    told = {"files": {name: (None, value) for name, value in fields.items()}} if form else {"json": fields}
    answer = opened.post(SPEECH, **told, headers=ELSEWHERE)

    assert error_of(answer) == (403, "forbidden_origin", "file_path")
    assert opened.post(SPEECH, **told, headers={"origin": "http://localhost:3000"}).status_code == 200


async def test_with_a_key_pages_of_other_sites_may(serve_app: ServeApp, tmp_path: Path) -> None:
    async with serve_app(api_keys="key-1") as client:
        headers = ELSEWHERE | {"authorization": "Bearer key-1"}
        answer = await client.post(SPEECH, json={"model": "echo", "file_path": "/a"}, headers=headers)
    assert answer.json()["error"]["code"] == "forbidden_path"  # and so not the origin


# --- jobs


def test_a_job_hears_base64_or_a_path(opened: httpx.Client, folder: Path) -> None:
    for source in ({"file": encoded(AUDIO)}, {"file_path": str(folder / "a.wav")}):
        job = opened.post("/v1/jobs", json={"endpoint": TRANSLATIONS, "body": {"model": "echo"} | source})
        assert job.status_code == 202
        assert finished(opened, job.json()["id"]) == spoken(AUDIO)


def test_a_form_s_job_may_name_a_file(opened: httpx.Client, folder: Path) -> None:
    fields = {"endpoint": SPEECH, "model": "echo", "file_path": str(folder / "a.wav")}
    job = opened.post("/v1/jobs", files={name: (None, value) for name, value in fields.items()}).json()
    assert finished(opened, job["id"]) == spoken(AUDIO)


# --- idempotency


def test_the_same_key_with_another_recording_is_a_conflict(
    opened: httpx.Client, open_live: Live, folder: Path
) -> None:
    def ask(**source: str) -> httpx.Response:
        return opened.post(SPEECH, json={"model": "echo"} | source, headers=key)

    key = {"idempotency-key": uuid.uuid4().hex}
    first, again = ask(file=encoded(AUDIO)), ask(file=encoded(AUDIO))

    assert first.headers["x-job-id"] == again.headers["x-job-id"]
    assert ask(file=encoded(AUDIO[::-1])).status_code == 409
    assert ask(file_path=str(folder / "a.wav")).status_code == 409
    until(lambda: not spool(open_live))


# --- uploads that end early, and large ones


@pytest.mark.parametrize("head", [b'"file": "', b'"prompt": "'])
def test_a_client_that_leaves_while_it_sends_json_leaves_nothing(open_live: Live, head: bytes) -> None:
    url = urlsplit(open_live.url)
    start = f"POST {SPEECH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n".encode()
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(start + b'{"model": "echo", ' + head + b"A" * 1_000_000)

    assert httpx.get(f"{open_live.url}/health").status_code == 200
    assert not spool(open_live)


def test_a_full_line_leaves_nothing(tmp_path: Path) -> None:
    slow = 'echo:{"tokens": 100000}'
    limits = "max_waiting = 1\noptions = { step_ms = 20 }"
    with Live(tmp_path, limits, OMINIX_DRAIN_TIMEOUT="1") as live:
        with httpx.Client(base_url=live.url, timeout=20) as http:
            busy = {"endpoint": SPEECH, "body": {"model": "echo", "file": "QQ==", "prompt": slow}}
            upload = {"files": {"file": AUDIO}, "data": {"model": "echo"}}
            statuses = []

            def is_full() -> bool:
                statuses.append(http.post("/v1/jobs", json=busy).status_code)
                return http.post(SPEECH, **upload).status_code == 429 and 429 in statuses

            until(is_full)
            until(lambda: len(spool(live)) == statuses.count(202))
            for job in http.get("/v1/jobs?limit=100").json()["data"]:
                http.delete(f"/v1/jobs/{job['id']}")
            until(lambda: not spool(live))


def test_a_large_upload_does_not_pass_through_memory(opened: httpx.Client, open_live: Live) -> None:
    opened.post(SPEECH, files={"file": AUDIO}, data={"model": "echo"})
    process = api_of(open_live)
    before = process.memory_info().rss
    with sampled(lambda: process.memory_info().rss) as seen:
        answer = opened.post(SPEECH, files={"file": b"\0" * SIZE}, data={"model": "echo"})

    assert heard(answer) == spoken(b"\0" * SIZE)
    assert max(seen) - before < 25 * MIB, (before, max(seen))


def api_of(live: Live) -> psutil.Process:
    """The API's process of a live system."""
    return next(
        each for each in psutil.Process().children()
        if each.cmdline()[-1:] == ["api"] and each.environ().get("OMINIX_HOME") == str(live.home)
    )


class sampled:
    """`with sampled(measure) as seen`: what it measures every few milliseconds, until the end."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self._over = threading.Event()
        self._seen = [measure()]
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> list[int]:
        self._thread.start()
        return self._seen

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.005):
            self._seen.append(self._measure())
