"""What the speech engine does with many recordings, whatever the model: a recognizer without one."""

import time
import wave
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shared.errors import WorkerDied
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.transcript import passages
from tests.engines.drive import Drive, spec
from workers.engines.asr.audio import RATE, decode
from workers.engines.asr.engine import AsrEngine, Options
from workers.engines.asr.recognizer import Asked, Hearing, Key

DATA = Path(__file__).parent.parent / "data"
LONGEST = 30.0


class Recognizer:
    """Hears the number of each chunk, one a step, in German; urgent ones first."""

    longest = LONGEST

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.broken: set[int] = set()  # chunks that fail
        self.failure: Exception | None = None  # of the next step
        self.stale: list[tuple[Key, Hearing]] = []  # told though it was aborted
        self.begun: list[Key] = []
        self._waiting: dict[Key, Asked] = {}

    def check(self, asked: Asked) -> None:
        pass

    def add(self, key: Key, samples: np.ndarray, asked: Asked) -> None:
        self.begun.append(key)
        self._waiting[key] = asked

    def abort(self, key: Key) -> None:
        self._waiting.pop(key, None)

    def step(self) -> list[tuple[Key, Hearing | Exception]]:
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        stale, self.stale = self.stale, []
        urgent = (key for key, asked in self._waiting.items() if asked.urgent)
        key = next(urgent, next(iter(self._waiting), None))
        if key is None:
            return stale
        del self._waiting[key]
        heard = ValueError("broken") if key[1] in self.broken else Hearing(f"{key[1]}", "de")
        return [*stale, (key, heard)]


@pytest.fixture
def recognizer() -> Recognizer:
    return Recognizer(rows=2)


@pytest.fixture
def engine(recognizer: Recognizer) -> Iterator[AsrEngine]:
    engine = AsrEngine(recognizer, Options())
    yield engine
    engine.close()


def write_wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A clip and a pause that ends its chunk."""
    return np.concatenate([decode(str(DATA / "something.flac"), 60), np.zeros(5 * RATE, np.float32)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray) -> Path:
    return write_wav(tmp_path_factory.mktemp("clip") / "clip.wav", speech)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray) -> Path:
    return write_wav(tmp_path_factory.mktemp("long") / "long.wav", np.tile(speech, 24))


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reading it takes a while."""
    return write_wav(tmp_path_factory.mktemp("silent") / "silent.wav", np.zeros(3600 * RATE, np.float32))


def add(drive: Drive, file: Path, lane: str = "batch", said: list[Delta] | None = None) -> JobSpec:
    job = msgspec.structs.replace(spec("transcription"), lane=lane)
    drive.add(job, blob=str(file), said=said or [])
    return job


def said(drive: Drive, job: JobSpec) -> list[Delta]:
    return [event for event in drive.events[job.id] if isinstance(event, Delta)]


def read(engine: AsrEngine) -> None:
    """Wait until every recording has a chunk that is ready."""
    while any(not job.feed.ready and not job.feed.ended for job in engine._jobs.values()):
        time.sleep(0.001)


def settle() -> None:
    """Let the ears read."""
    time.sleep(0.3)


def test_a_recording_whose_last_chunk_fails_has_failed(
    engine: AsrEngine, recognizer: Recognizer, clip: Path
) -> None:
    drive = Drive(engine)
    recognizer.broken = {0}
    job = add(drive, clip)
    settle()
    engine._ears.read_ahead(engine._jobs[job.id].feed, 2)
    settle()
    outputs = engine.step()
    assert [(output.last, str(output.error)) for _, output in outputs] == [(False, "broken")]
    drive.end(job.id)


def test_a_step_that_fails_costs_the_recordings_that_were_being_heard(
    engine: AsrEngine, recognizer: Recognizer, clip: Path, silent: Path
) -> None:
    drive = Drive(engine)
    heard, quiet = add(drive, clip), add(drive, silent)
    while not engine._jobs[heard.id].feed.ready:
        time.sleep(0.001)
    recognizer.failure = RuntimeError("no memory")
    drive.step()
    assert set(drive.errors) == {heard.id} and quiet.id in drive.running
    drive.end(quiet.id)


def test_what_comes_of_an_aborted_chunk_counts_for_nothing(
    engine: AsrEngine, recognizer: Recognizer, clip: Path
) -> None:
    drive = Drive(engine)
    job = add(drive, clip)
    recognizer.stale = [(("job-gone", 0), Hearing("stale"))]
    drive.run(1000)
    assert drive.text(job) == "0"


def test_jobs_of_a_lane_take_turns(engine: AsrEngine, recognizer: Recognizer, long: Path) -> None:
    drive = Drive(engine)
    jobs = [add(drive, long) for _ in range(engine.slots)]
    while len(recognizer.begun) < 3 * len(jobs):
        read(engine)
        drive.step()
    assert Counter(job_id for job_id, _ in recognizer.begun) == {job.id: 3 for job in jobs}
    for job in jobs:
        drive.end(job.id)


def test_a_long_interactive_recording_leaves_batch_jobs_a_share(
    engine: AsrEngine, recognizer: Recognizer, long: Path
) -> None:
    drive = Drive(engine)
    urgent, batch = add(drive, long, "interactive"), add(drive, long)
    while len(recognizer.begun) < 20:
        read(engine)
        drive.step()
    shares = Counter(job_id for job_id, _ in recognizer.begun)
    assert shares[batch.id] == 2 and shares[urgent.id] == 18
    drive.end(urgent.id)
    drive.end(batch.id)


def test_interactive_recordings_are_read_while_long_silence_is(
    engine: AsrEngine, clip: Path, silent: Path
) -> None:
    drive = Drive(engine)
    waiting = [add(drive, silent) for _ in range(2)]
    settle()
    begun = time.monotonic()
    job = add(drive, clip, "interactive")
    while job.id in drive.running:
        drive.step()
    assert time.monotonic() - begun < 1.5
    assert all(other.id in drive.running for other in waiting)
    for other in waiting:
        drive.end(other.id)


def test_reading_ends_soon_when_nobody_listens_any_more(engine: AsrEngine, silent: Path) -> None:
    drive = Drive(engine)
    job = add(drive, silent)
    feed = engine._jobs[job.id].feed
    settle()
    drive.end(job.id)
    limit = time.monotonic() + 1
    while feed.busy and time.monotonic() < limit:
        time.sleep(0.01)
    assert not feed.busy


def test_the_language_is_that_of_what_was_heard_before_too(engine: AsrEngine, clip: Path) -> None:
    first = Drive(engine)
    job = add(first, clip)
    first.run(1000)
    again = Drive(engine)
    again.add(job, blob=str(clip), said=said(first, job))
    again.run(1000)
    assert said(again, job) == []
    assert again.done(job).result["language"] == first.done(job).result["language"] == "german"


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_recording_that_has_changed_since_its_worker_died_does_not_go_on(
    engine: AsrEngine, tmp_path: Path, speech: np.ndarray, change: str
) -> None:
    file = write_wav(tmp_path / "a.wav", np.tile(speech, 3))
    first = Drive(engine)
    job = add(first, file)
    first.run(1000)
    samples = {
        "longer": np.concatenate([np.zeros(10 * RATE, np.float32), np.tile(speech, 3)]),
        "shorter": speech,
        "other": np.concatenate([speech, speech[RATE:], speech]),
    }
    write_wav(file, samples[change])
    again = Drive(engine)
    again.add(job, blob=str(file), said=said(first, job)[1:] if change == "longer" else said(first, job))
    again.run(1000)
    assert isinstance(again.errors[job.id], WorkerDied)


def test_a_recording_goes_on_behind_what_was_heard(
    engine: AsrEngine, tmp_path: Path, speech: np.ndarray
) -> None:
    file = write_wav(tmp_path / "a.wav", np.tile(speech, 5))
    first = Drive(engine)
    job = add(first, file)
    first.run(1000)
    known = said(first, job)
    again = Drive(engine)
    again.add(job, blob=str(file), said=[known[0], known[3]])
    again.run(1000)
    assert isinstance(again.events[job.id][-1], Done)
    heard = passages([known[0], known[3], *said(again, job)])
    assert [each.index for each in heard] == [each.index for each in passages(known)]


def test_a_job_that_waits_or_is_read_gives_signs_of_life(
    engine: AsrEngine, recognizer: Recognizer, silent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engines.asr.engine.ALIVE", 0.05)
    drive = Drive(engine)
    job = add(drive, silent)
    limit = time.monotonic() + 20
    while not drive.outputs[job.id] and time.monotonic() < limit:
        settle()
        drive.step()
    assert drive.outputs[job.id] and not drive.events[job.id]
    drive.end(job.id)
