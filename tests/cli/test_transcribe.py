"""`ominix transcribe` over a whole system: real API, Valkey and echo worker, and real signals."""

import hashlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live import Live, until

pytestmark = pytest.mark.systems

KEY = "a-key"
PACE = "options = { step_ms = 10 }"
SLOW = 'echo:{"tokens": 90}'  # nearly a second
FULL = f"max_waiting = 2\n{PACE}"  # with one slot for a batch


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A system that asks for a key, and that comes back under the same address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    home = tmp_path_factory.mktemp("live")
    with Live(home, PACE, OMINIX_PORT=port, OMINIX_API_KEYS=KEY, OMINIX_MAX_UPLOAD_MB="1") as system:
        yield system


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Three recordings; no other test has their like."""
    for name in ("a.mp3", "b.wav", "2024/c.flac"):
        record(tmp_path / "talks" / name)
    return tmp_path / "talks"


def record(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{path}".encode() * 1000)
    return path


def command(server: Live, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "cli", "transcribe", "--url", server.url, *map(str, arguments)]


def start(server: Live, *arguments: object, **options: object) -> subprocess.Popen:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    environ = server.environ | {"OMINIX_API_KEY": KEY}
    return subprocess.Popen(command(server, *arguments), env=environ, text=True, **options)


def transcribe(server: Live, *arguments: object) -> tuple[int, str]:
    """The exit status, and what was said."""
    with start(server, *arguments) as process:
        said, _ = process.communicate(timeout=60)
    return process.returncode, said


def jobs(server: Live) -> dict[str, dict]:
    """Every job that the server knows, by its id."""
    found: dict[str, dict] = {}
    query: dict[str, object] = {"limit": 100}
    while True:
        headers = {"authorization": f"Bearer {KEY}"}
        page = httpx.get(f"{server.url}/v1/jobs", params=query, headers=headers).json()
        found |= {job["id"]: job for job in page["data"]}
        if not page["has_more"]:
            return found
        query["after"] = page["last_id"]


def text_of(recording: Path) -> str:
    content = recording.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return f"{len(content)} bytes of {' '.join(digest[at : at + 4] for at in range(0, 64, 4))}"


def test_a_folder_gets_a_transcript_beside_each_recording(server: Live, talks: Path):
    status, said = transcribe(server, talks)
    assert status == 0, said
    for name in ("a.mp3", "b.wav", "2024/c.flac"):
        assert (talks / name).with_suffix(".txt").read_text() == text_of(talks / name) + "\n"
    assert re.search(r"^3 done, 0 failed, in 0:0\d \([\d.]+x\)\.$", said, re.MULTILINE)
    assert said.count("\n") == 4 and f"[3/3] {talks}" in said


def test_what_is_done_is_skipped_until_it_is_forced_or_the_source_changes(server: Live, talks: Path):
    transcribe(server, talks)
    before = jobs(server)
    assert transcribe(server, talks) == (
        0,
        "0 done, 3 skipped (done before; --force does them again), 0 failed, in 0:00.\n",
    )
    os.utime(talks / "a.mp3")
    assert "1 done, 2 skipped" in transcribe(server, talks)[1]
    assert len(jobs(server)) == len(before) + 1
    time.sleep(1)  # a job's time is told in whole seconds
    assert "3 done, 0 failed" in transcribe(server, talks, "--force")[1]
    assert len(jobs(server)) == len(before) + 4


def test_results_mirror_the_folder_and_patterns_below_out(server: Live, talks: Path, tmp_path: Path):
    for name, paths in (("one", talks), ("two", f"{talks}/**/*.flac")):
        options = ["--out", tmp_path / name, "--format", "json", "--model", "org/echo-repo"]
        status, said = transcribe(server, paths, *options)
        assert status == 0, said
    assert json.loads((tmp_path / "one" / "a.json").read_text())["text"] == text_of(talks / "a.mp3")
    assert (tmp_path / "one" / "2024" / "c.json").exists()
    assert [str(path.relative_to(tmp_path / "two")) for path in (tmp_path / "two").rglob("*.json")] == [
        "2024/c.json"
    ]
    assert not list(talks.rglob("*.json"))


@pytest.mark.parametrize(("format", "ending"), [("srt", "srt"), ("vtt", "vtt"), ("verbose_json", "json")])
def test_every_format_of_the_server_has_its_name(server: Live, talks: Path, format: str, ending: str):
    words = ["--words"] if format == "verbose_json" else []
    assert transcribe(server, talks / "a.mp3", "--format", format, *words)[0] == 0
    written = (talks / f"a.{ending}").read_text()
    if format == "verbose_json":
        assert json.loads(written)["words"] and json.loads(written)["segments"]
    else:
        assert " --> 00:00:0" in written


def test_a_translation_does_not_take_the_transcript_s_place(server: Live, talks: Path):
    assert transcribe(server, talks / "a.mp3", "--translate")[0] == 0
    assert (talks / "a.en.txt").exists() and not (talks / "a.txt").exists()


def test_what_fails_is_listed_and_the_others_are_done(server: Live, talks: Path):
    empty, large = talks / "empty.mp3", talks / "large.mp3"
    empty.touch()
    large.write_bytes(bytes(3 << 20))
    status, said = transcribe(server, empty, talks / "nope.mp3", large, talks / "a.mp3")
    assert status == 1
    head, _, listed = said.partition("1 done, 3 failed")
    assert f"{talks / 'nope.mp3'}: there is no such file or folder" in head
    assert f"  {empty}: The uploaded file is empty." in listed
    assert re.search(f"  {large}: .* larger than ", listed)
    assert f"  {talks / 'nope.mp3'}: there is no such file or folder" in listed
    assert (talks / "a.txt").exists() and not list(talks.glob("*.part"))


def test_what_no_file_could_change_is_said_once_before_any_is_sent(server: Live, talks: Path):
    before = jobs(server)
    refusals = {
        ("--model", "nope"): "ominix: The model 'nope' does not exist.",
        ("--language", "x"): "ominix: Invalid value for 'language'",
        ("--api-key", "wrong"): "ominix: This API key is not known here. It is taken from --api-key",
        ("--url", "http://127.0.0.1:1"): "ominix: No server answers at http://127.0.0.1:1.",
    }
    for options, sentence in refusals.items():
        with start(server, talks, *options) as process:
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 1 and said.startswith(sentence) and said.count("\n") == 1, said
    assert jobs(server) == before


@pytest.mark.parametrize(
    "options", [["--words"], ["--format", "pdf"], ["--url", "localhost:8080"], []], ids=str
)
def test_wrong_usage_is_status_2(server: Live, talks: Path, options: list[str]):
    said = subprocess.run(
        [sys.executable, "-m", "cli", "transcribe", *([talks] if options else []), *options],
        capture_output=True,
    )
    assert said.returncode == 2


def test_a_job_that_failed_is_tried_again_by_the_next_run(server: Live, talks: Path):
    before = jobs(server)
    asked = (talks / "a.mp3", "--prompt", 'echo:{"fail_at": 3}')
    assert transcribe(server, *asked)[0] == 1
    time.sleep(1)  # a job's time is told in whole seconds
    status, said = transcribe(server, *asked)
    assert status == 1 and "the script fails at step 3" not in said  # an engine's words may quote
    assert len(jobs(server)) == len(before) + 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_goes_on_with_the_same_jobs(server: Live, tmp_path: Path, number: int):
    folder = tmp_path / "talks"
    recordings = [record(folder / f"{index:02}.mp3") for index in range(64)]
    before = jobs(server)
    with start(server, folder, "--prompt", SLOW) as process:
        until(lambda: len(jobs(server)) > len(before))
        process.send_signal(number)
        said, _ = process.communicate(timeout=10)
    left = jobs(server)
    assert len(left) < len(before) + 64
    if number == signal.SIGINT:
        assert process.returncode == 130 and "Traceback" not in said
        assert re.fullmatch(
            r"Stopped with \d+ of 64 left, \d+ of them with the server, which goes on\. "
            r"The same command picks them up\.",
            said.splitlines()[-1],
        )
    status, said = transcribe(server, folder, "--prompt", SLOW)
    assert status == 0 and ", 0 failed" in said, said
    after = jobs(server)
    assert len(after) == len(before) + 64 and left.keys() < after.keys()
    assert all(recording.with_suffix(".txt").exists() for recording in recordings)


def test_an_api_that_is_killed_and_comes_back_costs_nothing(server: Live, tmp_path: Path):
    for index in range(36):
        record(tmp_path / "talks" / f"{index:02}.mp3")
    before = jobs(server)
    with start(server, tmp_path / "talks", "--prompt", SLOW) as process:
        until(lambda: len(jobs(server)) >= len(before) + 10)
        server.kill("api", signal.SIGKILL)
        time.sleep(1)
        server.start_api()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "36 done, 0 failed" in said, said
    assert said.count("is away: waiting until it is back") == 1
    assert len(jobs(server)) == len(before) + 36


def test_a_full_line_is_waited_for(tmp_path: Path):
    for index in range(5):
        record(tmp_path / "talks" / f"{index}.mp3")
    with Live(tmp_path, FULL, OMINIX_API_KEYS=KEY, OMINIX_BATCH_RESERVE="15") as full:
        status, said = transcribe(full, tmp_path / "talks", "--prompt", SLOW)
        assert status == 0 and "5 done, 0 failed" in said, said
        assert len(jobs(full)) == 5
    assert said.count("waiting: ") == 1 and "jobs are waiting for 'echo'" in said


def test_a_terminal_is_shown_bars_that_go_when_all_is_done(server: Live, talks: Path):
    ours, theirs = pty.openpty()
    with start(server, talks, "--prompt", SLOW, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b"".join(iter(lambda: read(ours), b"")).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "━━━" in said and re.search(r"[1-9]\d%", said) and "0/3 files" in said
    assert "[1/3]" not in said and "3 done, 0 failed" in said.splitlines()[-1]


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so that the other end is closed
        return b""
