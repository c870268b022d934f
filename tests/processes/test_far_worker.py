"""A worker that cannot have the audio of its jobs leaves them to one that can."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import keys
from shared.connections import connect
from shared.events import Delta, Done, Failed
from shared.queues import StrictJob
from tests.processes.conftest import Bench, until
from tests.processes.test_resuming import audio, deltas, transcript
from workers.returning import MAX_RETURNS


@pytest.fixture
def network(bench: Bench) -> Iterator[str]:
    """The bench's Redis, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bench.redis.config_set("port", port)
    yield f"redis://127.0.0.1:{port}"
    bench.redis.config_set("port", 0)


@pytest.fixture
def far(bench: Bench, network: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a worker that has a home of its own, and an API that it cannot reach."""
    bench.redis.set(keys.LINK_SECRET, "secret")
    bench.redis.sadd(keys.APIS, "http://127.0.0.1:1")
    bench.redis.set(keys.api("http://127.0.0.1:1"), "")
    return {"REDIS_URL": network, "OMINIX_HOME": str(tmp_path / "far")}


def test_its_jobs_go_back_and_are_run_by_another(bench: Bench, far: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        worker = bench.ready(bench.start_worker(log=log, **far))
        contents = {bench.transcribe(audio(number)): audio(number) for number in range(6)}
        until(lambda: bench.redis.hget(keys.worker(worker.name), "state") == b"stalled")
        until(lambda: all(bench.status(job_id) == "queued" for job_id in contents))
        assert not any(bench.events(job_id) for job_id in contents)
        assert not any(bench.redis.hget(StrictJob.key_for(job_id), "deaths") for job_id in contents)

        near = bench.ready(bench.start_worker(log=log))
        for job_id, content in contents.items():
            assert isinstance(bench.end(job_id), Done)
            assert "".join(delta.text for delta in deltas(bench, job_id)) == transcript(content)
            assert bench.redis.hget(StrictJob.key_for(job_id), "worker_name") == near.name.encode()
    assert worker.poll() is None
    assert "127.0.0.1:1 cannot be reached" in (tmp_path / "log").read_text()
    assert not list((tmp_path / "far" / "fetched").iterdir())
    until(lambda: not list(bench.settings.blobs_dir.glob("blob-*")))


def test_a_job_that_has_spoken_goes_on_elsewhere(bench: Bench, far: dict[str, str]) -> None:
    near = bench.ready(bench.start_worker())
    job_id = bench.transcribe(audio(1))
    until(lambda: len(bench.events(job_id)) >= 3)
    near.kill()
    near.wait()
    bench.ready(bench.start_worker(**far))
    reaper = bench.reaper()
    until(lambda: reaper.sweep() or int(bench.redis.hget(StrictJob.key_for(job_id), "returns") or 0) > 0)
    bench.start_worker()
    assert isinstance(bench.end(job_id), Done)
    assert "".join(delta.text for delta in deltas(bench, job_id)) == transcript(audio(1))


def test_a_job_that_nobody_can_run_ends_at_last(bench: Bench, far: dict[str, str]) -> None:
    worker = bench.ready(bench.start_worker(**far))
    bench.redis.rename(keys.APIS, "kept")  # so that it takes nothing meanwhile
    job_id = bench.transcribe(audio(1))
    until(lambda: bench.redis.hget(keys.worker(worker.name), "state") == b"stalled")
    until(lambda: bench.status(job_id) == "queued")
    bench.redis.hset(StrictJob.key_for(job_id), "returns", MAX_RETURNS)
    bench.redis.rename("kept", keys.APIS)
    again = bench.start_worker(**far)
    end = bench.end(job_id)
    assert isinstance(end, Failed) and end.status == 500
    assert "No worker could get the audio" in end.message
    assert again.poll() is None


def test_one_that_is_cancelled_after_it_went_back_is_run_by_nobody(bench: Bench, far: dict[str, str]) -> None:
    worker = bench.ready(bench.start_worker(**far))
    job_id = bench.transcribe(audio(1))
    until(lambda: bench.redis.hget(keys.worker(worker.name), "state") == b"stalled")
    until(lambda: bench.status(job_id) == "queued")
    bench.redis.set(keys.cancelled(job_id), 1)
    bench.start_worker()
    assert bench.end(job_id).status == 499
    assert not any(isinstance(event, Delta) for event in bench.events(job_id))


def test_a_connection_over_a_network_is_kept_alive(network: str) -> None:
    with connect(network) as client:
        connection = client.connection_pool.get_connection()
        assert connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection._sock.gettimeout() <= 15
        client.connection_pool.release(connection)
