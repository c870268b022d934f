"""The audio of jobs on a host that does not have it, from a real API."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from redis import Redis
from rq.executions import Execution

from shared import keys
from shared.blobs import BlobStore, blob_store
from shared.errors import EngineError, Forbidden, NotFound
from shared.jobs import JobSpec, new_job_id
from shared.queues import make_job
from shared.settings import Settings, read_settings
from tests.live import Live, until
from workers import files
from workers.apis import Abandoned, Unreachable
from workers.files import Files
from workers.flight import Flight, Slots

AUDIO = bytes(range(256)) * 20_000


@pytest.fixture
def redis(live: Live) -> Iterator[Redis]:
    with Redis.from_url(live.redis_url) as redis:
        until(lambda: redis.exists(keys.api(live.url)))
        yield redis
        redis.delete(keys.SPENT_BLOBS)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of another host."""
    return read_settings({}, home=tmp_path / "studio", redis_url="rediss://mini.local")


@pytest.fixture
def elsewhere(settings: Settings, redis: Redis) -> Iterator[Files]:
    files = Files(settings, blob_store(settings), redis)
    yield files
    files.close()


@pytest.fixture
def fly(redis: Redis) -> Callable[..., Flight]:
    def fly(**where: str) -> Flight:
        spec = JobSpec(id=new_job_id(), task="transcription", model="echo", params={}, created=time.time(),
                       timeout=60.0, **where)  # fmt: skip
        job = make_job(spec, 60, redis)
        job.save()
        return Flight(job, 1, Execution("", job.id, redis), Slots(1))

    return fly


@pytest.fixture
def blob(live: Live) -> Iterator[str]:
    blobs = BlobStore(live.settings.blobs_dir)
    blob = blobs.create()
    blob.write(AUDIO)
    blob.close()
    yield blob.key
    blobs.delete(blob.key)


def fetched(settings: Settings) -> list[Path]:
    return list((settings.home / "fetched").glob("*"))


def test_what_is_not_here_is_fetched_and_kept_as_long_as_its_job(
    elsewhere: Files, settings: Settings, fly: Callable[..., Flight], blob: str
):
    flight = fly(blob=blob)
    path = Path(elsewhere.place(flight))
    assert path.read_bytes() == AUDIO
    assert [path] == fetched(settings)
    assert path.stat().st_mode & 0o077 == 0 and path.parent.stat().st_mode & 0o077 == 0
    elsewhere.release(flight.id)
    assert not fetched(settings)
    elsewhere.release(flight.id)


def test_what_is_here_is_not_fetched(live: Live, redis: Redis, fly: Callable[..., Flight], blob: str):
    here = Files(live.settings, BlobStore(live.settings.blobs_dir), redis)
    assert here.place(fly(blob=blob)) == str(live.settings.blobs_dir / blob)
    assert here.place(fly()) is None
    assert not fetched(live.settings)


def test_audio_that_is_gone_fails_its_job_alone(
    live: Live, elsewhere: Files, redis: Redis, settings: Settings, fly: Callable[..., Flight]
):
    here = Files(live.settings, BlobStore(live.settings.blobs_dir), redis)
    for each in (elsewhere, here):
        with pytest.raises(EngineError, match="no longer there. Please send it again"):
            each.place(fly(blob=f"blob-{'0' * 32}"))
        assert not each.stuck and not each.waits()
    assert not fetched(settings)


def test_a_job_that_has_ended_leaves_no_file(
    elsewhere: Files, settings: Settings, fly: Callable[..., Flight], blob: str
):
    flight = fly(blob=blob)
    flight.over = True
    with pytest.raises(Abandoned):
        elsewhere.place(flight)
    assert not fetched(settings) and not elsewhere.stuck


def test_without_an_api_that_answers_nothing_is_taken_until_one_does(
    elsewhere: Files, live: Live, redis: Redis, fly: Callable[..., Flight], blob: str
):
    redis.rename(keys.APIS, "kept")
    try:
        with pytest.raises(Unreachable, match="OMINIX_PUBLIC_URL"):
            elsewhere.place(fly(blob=blob))
        redis.sadd(keys.APIS, "http://127.0.0.1:1")
        redis.set(keys.api("http://127.0.0.1:1"), "", ex=60)
        with pytest.raises(Unreachable, match="127.0.0.1:1 cannot be reached") as refusal:
            elsewhere.place(fly(blob=blob))
        assert "signature" not in str(refusal.value)
        assert elsewhere.stuck and elsewhere.waits()
    finally:
        redis.delete(keys.APIS, keys.api("http://127.0.0.1:1"))
        redis.rename("kept", keys.APIS)
    until(lambda: not elsewhere.waits())
    assert not elsewhere.stuck
    elsewhere.place(fly(blob=blob))


def test_an_api_of_another_host_that_only_that_host_can_use_is_left_alone(
    elsewhere: Files, live: Live, redis: Redis, fly: Callable[..., Flight], blob: str
):
    before = redis.get(keys.api(live.url))
    assert before == os.uname().nodename.encode()
    redis.set(keys.api(live.url), "mini", ex=60)
    try:
        with pytest.raises(Unreachable, match="no API says where it is"):
            elsewhere.place(fly(blob=blob))
    finally:
        redis.set(keys.api(live.url), before, ex=60)


class Liar(BaseHTTPRequestHandler):
    """Answers at `/KEY` as its key says."""

    def do_GET(self) -> None:
        status, body, length, digest = ANSWERS[self.path.split("?")[0].rpartition("-")[2]]
        self.send_response(status)
        self.send_header("content-length", str(length))
        self.send_header("repr-digest", digest)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


EMPTY = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
ANSWERS = {
    "damaged": (200, b"other", 5, EMPTY),
    "short": (200, b"short", 500, EMPTY),
    "moved": (302, b"", 0, EMPTY),
    "proxy": (502, b"<html>", 6, EMPTY),
    "nobody": (401, b"{}", 2, EMPTY),
    "link": (403, b'{"error": {"message": "no", "code": "invalid_link"}}', 52, EMPTY),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_does_not_arrive_whole_is_left_to_others(
    elsewhere: Files, settings: Settings, redis: Redis, fly: Callable[..., Flight], answer: str
):
    server = HTTPServer(("127.0.0.1", 0), Liar)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    redis.rename(keys.APIS, "kept")
    redis.sadd(keys.APIS, url)
    redis.set(keys.api(url), "", ex=60)
    try:
        with pytest.raises(Unreachable):
            elsewhere.place(fly(blob=f"blob-{answer}"))
    finally:
        redis.delete(keys.api(url))
        redis.rename("kept", keys.APIS)
        server.shutdown()
        server.server_close()
    assert elsewhere.stuck and not fetched(settings)


def test_a_path_is_the_apis_unless_its_folder_is_here_too(
    live: Live, elsewhere: Files, redis: Redis, settings: Settings, fly: Callable[..., Flight], tmp_path: Path
):
    (tmp_path / "a.wav").write_bytes(AUDIO)
    flight = fly(path=str(tmp_path / "a.wav"))
    shared = read_settings({}, home=settings.home, redis_url=settings.redis, audio_folders=str(tmp_path))
    assert Files(shared, blob_store(shared), redis).place(flight) == str(tmp_path / "a.wav")
    with pytest.raises(Forbidden, match="OMINIX_AUDIO_FOLDERS"):  # the API's own word
        elsewhere.place(flight)
    with pytest.raises(Forbidden, match="OMINIX_AUDIO_FOLDERS"):
        Files(live.settings, blob_store(live.settings), redis).place(flight)


def test_on_its_own_host_a_path_that_is_gone_is_not_looked_for_elsewhere(
    live: Live, redis: Redis, fly: Callable[..., Flight], tmp_path: Path
):
    settings = read_settings({}, home=live.home, redis_url=live.redis_url, audio_folders=str(tmp_path))
    with pytest.raises(NotFound, match="file_path"):
        Files(settings, blob_store(settings), redis).place(fly(path=str(tmp_path / "gone.wav")))


def test_what_a_killed_worker_left_is_removed(settings: Settings, redis: Redis):
    folder = settings.home / "fetched"
    folder.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, own, kept = (folder / f"{pid}-0" for pid in (dead.pid, os.getpid(), os.getppid()))
    for path in (left, own, kept):
        path.touch()
    Files(settings, blob_store(settings), redis)
    assert fetched(settings) == [kept]


def test_the_end_of_a_job_removes_its_blob_here_or_leaves_word(elsewhere: Files, redis: Redis, blob: str):
    elsewhere.delete(None)
    assert not redis.exists(keys.SPENT_BLOBS)
    elsewhere.delete(blob)
    assert redis.zscore(keys.SPENT_BLOBS, blob) == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("scheme", ["file", "local"])  # a folder that all hosts have; a store of fsspec's
def test_what_lies_in_a_store_of_all_hosts_needs_no_link(
    scheme: str, tmp_path: Path, redis: Redis, fly: Callable[..., Flight]
):
    def host(name: str) -> Settings:
        url = f"{scheme}://{tmp_path}/all hosts"
        return read_settings({}, home=tmp_path / name, redis_url="rediss://mini.local", blobs_url=url)

    mini, studio = blob_store(host("mini")), blob_store(host("studio"))
    blob = mini.create()
    blob.write(AUDIO)
    blob.close()
    assert mini.digest(blob.key) == studio.digest(blob.key)
    assert set(studio.older_than(-5)) == {blob.key} and not set(studio.older_than(3600))

    files = Files(host("studio"), studio, redis)
    flight = fly(blob=blob.key)
    assert Path(files.place(flight)).read_bytes() == AUDIO
    files.release(flight.id)
    assert not fetched(host("studio"))
    files.delete(blob.key)
    until(lambda: not set(mini.older_than(-5)))
    with pytest.raises(EngineError, match="no longer there"):
        files.place(fly(blob=blob.key))
    files.close()
    assert not redis.exists(keys.SPENT_BLOBS)
    assert not list((tmp_path / "mini" / "blobs").glob("*"))


def test_an_upload_that_is_given_up_leaves_nothing_in_a_store(tmp_path: Path):
    settings = read_settings({}, home=tmp_path / "mini", blobs_url=f"local://{tmp_path}/all")
    store = blob_store(settings)
    for close in (False, True):
        blob = store.create()
        blob.write(AUDIO)
        if close:
            blob.close()
        blob.discard()
    until(lambda: not set(store.older_than(-5)))
    assert not list(settings.blobs_dir.iterdir())


def test_pauses_grow_from_failure_to_failure(elsewhere: Files, redis: Redis, fly: Callable[..., Flight]):
    redis.rename(keys.APIS, "kept")
    try:
        dues = []
        for _ in range(len(files.PAUSES) + 2):
            with pytest.raises(Unreachable):
                elsewhere.place(fly(blob="blob-0"))
            dues.append(elsewhere._due)
    finally:
        redis.rename("kept", keys.APIS)
    assert dues == sorted(dues) and dues[-1] - dues[0] > files.PAUSES[-1] - files.PAUSES[0] - 1
