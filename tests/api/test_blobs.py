"""Audio for workers on other hosts: by a signed link, and by nothing else."""

import asyncio
import base64
import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from api.hosts import LIFETIME, address
from shared import keys, links
from shared.blobs import BlobStore
from shared.jobs import JobSpec, new_job_id
from shared.queues import make_job
from shared.settings import read_settings
from tests.api.conftest import ServeApp
from tests.live import Live, until

AUDIO = bytes(range(256)) * 20_000


@pytest.fixture
def store(live: Live) -> Iterator[Redis]:
    with Redis.from_url(live.redis_url) as redis:
        until(lambda: redis.exists(keys.LINK_SECRET))
        yield redis


@pytest.fixture
def blob(live: Live) -> Iterator[str]:
    blobs = BlobStore(live.settings.blobs_dir)
    blob = blobs.create()
    blob.write(AUDIO)
    blob.close()
    yield blob.key
    blobs.delete(blob.key)


def link(store: Redis, key: str, now: float | None = None) -> str:
    return links.make("", store.get(keys.LINK_SECRET), key, int(now or time.time()))


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_link_brings_the_bytes_and_their_digest(http: httpx.Client, store: Redis, blob: str):
    answer = http.get(link(store, blob))
    assert answer.content == AUDIO
    assert answer.headers["content-length"] == f"{len(AUDIO)}"
    digest = base64.b64encode(hashlib.sha256(AUDIO).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"


def test_without_a_good_link_nobody_learns_what_is_there(http: httpx.Client, store: Redis, blob: str):
    good = link(store, blob)
    refused = [
        links.PREFIX + blob,
        links.PREFIX + "blob-0",
        good[:-1] + ("0" if good[-1] != "0" else "1"),
        good.replace(blob, "blob-0"),
        good.replace("expires=", "expires=9"),
        link(store, blob, time.time() - links.LIFETIME - 5),
    ]
    for url in refused:
        assert code(http.get(url)) == (403, links.CODE), url


@pytest.mark.parametrize("key", ["..", "../models.toml", "..%2fmodels.toml", "%2e%2e", "blob-..", "blob-../x",
                                 "blob-x%00", "/etc/passwd", "redis", "blob-", "job-1", ""])  # fmt: skip
def test_even_a_signed_link_leads_to_blobs_only(http: httpx.Client, store: Redis, key: str):
    assert http.get(link(store, key)).status_code in (403, 404)


def test_there_is_no_list_and_no_way_to_change_one(http: httpx.Client, store: Redis, blob: str):
    assert http.get(links.PREFIX).status_code == 404
    assert http.delete(link(store, blob)).status_code == 405
    assert http.put(link(store, blob), content=b"x").status_code == 405
    assert http.get(link(store, blob)).content == AUDIO


async def test_no_api_key_is_asked_for(serve_app: ServeApp, store: Redis, blob: str):
    async with serve_app(api_keys="secret") as client:
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get(link(store, blob), headers={"host": "mini.local"})).content == AUDIO
        assert code(await client.get(links.PREFIX + blob)) == (403, links.CODE)


async def test_the_file_that_a_job_names_is_there_under_the_jobs_id(
    serve_app: ServeApp, store: Redis, tmp_path: Path
):
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / "a.wav").write_bytes(AUDIO)

    def job(path: Path | None) -> str:
        spec = JobSpec(id=new_job_id(), task="transcription", model="echo", params={}, created=time.time(),
                       timeout=60.0, path=path and str(path))  # fmt: skip
        make_job(spec, 60, store).save()
        return spec.id

    async with serve_app(audio_folders=str(folder)) as client:
        assert (await client.get(link(store, job(folder / "a.wav")))).content == AUDIO
        assert code(await client.get(link(store, job(folder / "b.wav")))) == (404, "not_found")
        assert code(await client.get(link(store, job(None)))) == (404, "not_found")
        for outside in (folder / ".." / "models.toml", Path("/etc/passwd")):
            assert code(await client.get(link(store, job(outside)))) == (403, "forbidden_path")


async def test_the_api_says_where_it_is_until_it_stops(serve_app: ServeApp, store: Redis):
    async with serve_app(public_url="https://mini.local/"):
        while store.get(keys.api("https://mini.local")) != b"":
            await asyncio.sleep(0.02)
        assert b"https://mini.local" in store.smembers(keys.APIS)
        assert 0 < store.ttl(keys.api("https://mini.local")) <= LIFETIME
    assert not store.exists(keys.api("https://mini.local"))


def test_an_address_that_others_cannot_use_is_announced_for_this_host_alone():
    here = socket.gethostname()

    def said(**settings: object) -> tuple[str, str]:
        return address(read_settings({}, **settings), 8080)

    assert said() == ("http://127.0.0.1:8080", here)
    assert said(host="localhost") == ("http://localhost:8080", here)
    assert said(host="0.0.0.0") == said(host="::") == (f"http://{here}:8080", "")
    assert said(host="192.0.2.7") == ("http://192.0.2.7:8080", "")
    assert said(host="2001:db8::7") == ("http://[2001:db8::7]:8080", "")
    assert said(public_url="http://localhost:9/") == ("http://localhost:9", "")


async def test_a_blob_whose_job_has_ended_elsewhere_is_removed(
    serve_app: ServeApp, store: Redis, live: Live, blob: str
):
    now = time.time()
    elsewhere = f"blob-{'0' * 32}"
    old = now - live.settings.result_ttl - 1
    store.zadd(keys.SPENT_BLOBS, {blob: now, elsewhere: now, "../models.toml": now, "blob-old": old})
    async with serve_app():
        while store.zrange(keys.SPENT_BLOBS, 0, -1) != [elsewhere.encode()]:
            await asyncio.sleep(0.02)
    assert not (live.settings.blobs_dir / blob).exists()
    assert (live.home / "models.toml").exists()
    store.delete(keys.SPENT_BLOBS)
