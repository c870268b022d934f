"""A transcription goes on where its worker died: nothing lost, nothing doubled, little done twice."""

import hashlib
import re
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from rq.executions import Execution
from rq.serializers import JSONSerializer

from shared import keys
from shared.blobs import BlobStore
from shared.events import Delta, Done, Event
from shared.queues import StrictJob
from shared.transcript import passages
from tests.processes.conftest import Bench, until
from workers.engine import Output
from workers.flight import Flight, Slots
from workers.outlet import Outlet
from workers.settle import settle_worker

HEARD = re.compile(r"job (\S+): heard chunk (\d+)")
SLOTS = 4  # of the bench's echo model: so many chunks are in flight
KILLS = 3


def audio(number: int) -> bytes:
    return f"recording {number} ".encode() * 1000


def transcript(content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return f"{len(content)} bytes of " + " ".join(digest[at : at + 4] for at in range(0, 64, 4))


def deltas(bench: Bench, job_id: str) -> list[Delta]:
    return [event for event in bench.events(job_id) if isinstance(event, Delta)]


def kill(bench: Bench, worker) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    settle_worker(bench.redis, worker.name, bench.settings)


def computed(log: Path) -> Counter:
    return Counter(HEARD.findall(log.read_text()))


def test_a_job_goes_on_behind_what_it_has_said(bench: Bench, tmp_path: Path) -> None:
    content = audio(1)
    with (tmp_path / "log").open("wb") as log:
        worker = bench.ready(bench.start_worker(log=log, OMINIX_LOG_LEVEL="DEBUG"))
        job_id = bench.transcribe(content)
        until(lambda: len(bench.events(job_id)) >= 5)
        kill(bench, worker)
        assert bench.status(job_id) == "queued"
        said = len(bench.events(job_id))

        bench.start_worker(log=log, OMINIX_LOG_LEVEL="DEBUG")
        assert isinstance(bench.end(job_id), Done)

    assert "".join(delta.text for delta in deltas(bench, job_id)) == transcript(content)
    assert sum(count - 1 for count in computed(tmp_path / "log").values()) <= 1
    assert said >= 5


def test_only_deaths_without_a_word_in_between_count(bench: Bench) -> None:
    job_id = bench.transcribe(audio(1))
    for _ in range(5):
        before = len(bench.events(job_id))
        worker = bench.start_worker()
        until(lambda before=before: len(bench.events(job_id)) > before)
        kill(bench, worker)
        assert bench.status(job_id) == "queued"
    bench.start_worker()
    assert isinstance(bench.end(job_id), Done)


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_many_jobs_survive_three_deaths_of_their_worker(bench: Bench, tmp_path: Path, count: int) -> None:
    contents = {bench.transcribe(audio(number), lane="batch"): audio(number) for number in range(count)}
    reaper = bench.reaper()

    def finished() -> int:
        reaper.sweep()  # a job may have been taken and not yet registered
        return sum(bench.status(job_id) == "finished" for job_id in contents)

    with (tmp_path / "log").open("wb") as log:
        for death in range(1, KILLS + 1):
            worker = bench.ready(bench.start_worker(log=log, OMINIX_LOG_LEVEL="DEBUG"))
            until(lambda death=death: finished() >= count * death // (KILLS + 2), seconds=120)
            kill(bench, worker)
        bench.start_worker(log=log, OMINIX_LOG_LEVEL="DEBUG")
        until(lambda: finished() == count, seconds=120)

    for job_id, content in contents.items():
        said = deltas(bench, job_id)
        assert "".join(delta.text for delta in said) == transcript(content)
        assert [passage.index for passage in passages(said)] == list(range(len(said)))
    again = sum(times - 1 for times in computed(tmp_path / "log").values())
    assert again <= KILLS * SLOTS


def test_a_file_stays_until_its_job_has_ended(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker())
    job_id = bench.transcribe(audio(1))
    until(lambda: bench.spoken(job_id))
    kill(bench, worker)
    assert len(list(bench.settings.blobs_dir.glob("blob-*"))) == 1
    bench.start_worker()
    bench.end(job_id)
    until(lambda: not list(bench.settings.blobs_dir.glob("blob-*")))


def test_an_event_that_cannot_be_read_costs_its_job_alone(bench: Bench) -> None:
    worker = bench.ready(bench.start_worker())
    job_id = bench.transcribe(audio(1))
    until(lambda: bench.spoken(job_id))
    kill(bench, worker)
    bench.redis.xadd(keys.events(job_id), {keys.FIELD: b"{"}, id="2-1")

    worker = bench.ready(bench.start_worker())
    until(lambda: bench.status(job_id) == "failed")
    assert isinstance(bench.end(bench.submit()), Done)
    assert worker.poll() is None


class Listening:
    """An engine that has nothing to tell yet."""

    def render(self, job_id: str, outputs: Iterable[Output]) -> list[Event]:
        return []


def test_a_recording_that_is_well_without_a_word_is_not_out_of_time(bench: Bench) -> None:
    job = StrictJob.fetch(bench.transcribe(audio(1)), bench.redis, serializer=JSONSerializer)
    flight = Flight(job, 1, Execution("", job.id, bench.redis), Slots(1))
    outlet = Outlet(bench.redis, {}, BlobStore(bench.settings.blobs_dir), 60, print, print)
    outlet.engine = Listening()
    outlet.start()
    before = flight.deadline
    time.sleep(0.01)
    outlet.put([(flight, Output())])
    until(lambda: flight.deadline > before)
