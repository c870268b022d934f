"""What the speech engine makes of whole recordings: real speech, long and short, beside others."""

import json
import re
import time
import wave
from pathlib import Path

import jiwer
import msgspec
import numpy as np
import psutil
import pytest

from shared.errors import BadRequest
from shared.events import Delta
from shared.jobs import JobSpec
from shared.transcript import passages
from tests.engines.drive import Drive, spec
from workers.engine import Engine
from workers.engines.asr.audio import RATE, decode
from workers.engines.asr.chunker import chunks
from workers.engines.asr.languages import code_of

DATA = Path(__file__).parent.parent / "data"
CLIPS: dict[str, str] = json.loads((DATA / "transcripts.json").read_text(encoding="utf-8"))
CLIP = DATA / "something.flac"


def write_wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def add(drive: Drive, file: Path, lane: str = "batch", **params: object) -> JobSpec:
    job = msgspec.structs.replace(spec("transcription", **params), lane=lane)
    drive.add(job, blob=str(file))
    return job


def hear(engine: Engine, file: Path, **params: object) -> tuple[Drive, JobSpec]:
    drive = Drive(engine)
    job = add(drive, file, **params)
    drive.run()
    assert drive.errors == {}
    return drive, job


def said(drive: Drive, job: JobSpec) -> list[Delta]:
    return [event for event in drive.events[job.id] if isinstance(event, Delta)]


def is_open(file: Path) -> bool:
    return f"{file}" in [each.path for each in psutil.Process().open_files()]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every clip twice, with pauses that cut it into several chunks."""
    pauses = [np.zeros(int(RATE * seconds), np.float32) for seconds in (0.5, 5)]
    clips = [decode(str(DATA / name), 60) for name in CLIPS]
    pieces = [piece for at, clip in enumerate(clips * 2) for piece in (clip, pauses[at % 3 == 2])]
    return write_wav(tmp_path_factory.mktemp("long") / "long.wav", np.concatenate(pieces))


@pytest.mark.models
def test_hears_what_is_said(asr_engine: Engine) -> None:
    drive = Drive(asr_engine)
    jobs = [add(drive, DATA / name) for name in CLIPS]
    drive.run()
    heard = [words(drive.text(job)) for job in jobs]
    assert jiwer.wer([words(text) for text in CLIPS.values()], heard) <= 0.10


@pytest.mark.models
def test_the_text_of_a_long_recording_is_in_order_and_of_each_chunk_what_mlx_audio_hears_in_it(
    asr_engine: Engine, long: Path
) -> None:
    drive, job = hear(asr_engine, long)
    heard = passages(said(drive, job))
    cut = list(chunks([decode(str(long), 600)], 30))
    assert [(each.start, each.end) for each in heard] == [(c.start / RATE, c.end / RATE) for c in cut]
    assert len(cut) >= 4
    for passage, chunk in zip(heard, cut, strict=True):
        own = asr_engine._recognizer._model.generate(chunk.samples, language="en", fp16=False, verbose=None)
        assert passage.text == own.text.strip()
        times = [(segment.start, segment.end) for segment in passage.segments]
        expected = [(s["start"], s["end"]) for s in own.segments if s["text"].strip()]
        assert times == [
            tuple(pytest.approx(min(passage.start + at, passage.end), abs=0.002) for at in pair)
            for pair in expected
        ]
    assert drive.text(job) == " ".join(passage.text for passage in heard if passage.text)
    assert jiwer.wer(words(" ".join([*CLIPS.values()] * 2)), words(drive.text(job))) <= 0.10
    progress = [delta.progress for delta in said(drive, job)]
    assert progress == sorted(progress) and 0 < progress[0] < progress[-1] <= 1


@pytest.mark.models
def test_what_was_heard_before_is_not_heard_again(asr_engine: Engine, long: Path) -> None:
    first, job = hear(asr_engine, long)
    known = said(first, job)
    early = [known[0], known[2]]  # the second chunk is missing

    again = Drive(asr_engine)
    again.add(job, blob=str(long), said=early)
    again.run()

    indices = {passage.index for passage in passages(said(again, job))}
    assert indices == {each.index for each in passages(known)} - {each.index for each in passages(early)}
    heard = [passage.text for passage in passages([*early, *said(again, job)])]
    assert heard == [passage.text for passage in passages(known)]


@pytest.mark.models
def test_an_interactive_recording_goes_before_all_chunks_that_wait(asr_engine: Engine, long: Path) -> None:
    drive = Drive(asr_engine)
    waiting = [add(drive, long) for _ in range(6)]
    while not any(drive.events[job.id] for job in waiting):
        drive.step()
    before = sum(len(drive.events[job.id]) for job in waiting)

    dictation = add(drive, CLIP, lane="interactive")
    running = asr_engine._running
    while dictation.id in drive.running:
        drive.step()

    assert words(drive.text(dictation)) == words(CLIPS[CLIP.name])
    begun_since = sum(len(drive.events[job.id]) for job in waiting) - before + asr_engine._running - running
    assert begun_since <= 1
    for job in waiting:
        drive.end(job.id)


@pytest.mark.models
def test_silence_has_no_text(asr_engine: Engine, tmp_path: Path) -> None:
    drive, job = hear(asr_engine, write_wav(tmp_path / "silence.wav", np.zeros(12 * RATE)))
    assert (drive.text(job), drive.done(job).result["duration"], said(drive, job)) == ("", 12.0, [])


@pytest.mark.models
def test_the_result_has_language_duration_and_whole_seconds_of_usage(asr_engine: Engine) -> None:
    drive, job = hear(asr_engine, CLIP, language="English", prompt="A command.")
    seconds = len(decode(str(CLIP), 60)) / RATE
    result = drive.done(job).result
    assert (result["language"], result["duration"], result["chunks"]) == ("english", seconds, 1)
    assert result["processing_time"] > 0
    assert drive.done(job).usage == {"type": "duration", "seconds": int(np.ceil(seconds))}


@pytest.mark.models
def test_an_aborted_job_stops_and_lets_go_of_its_file(asr_engine: Engine, long: Path) -> None:
    drive = Drive(asr_engine)
    job = add(drive, long)
    while not asr_engine._running:
        drive.step()
    assert is_open(long)
    drive.end(job.id)
    assert asr_engine.step() == []
    limit = time.monotonic() + 10
    while is_open(long) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not is_open(long)


@pytest.mark.models
def test_a_file_that_turns_out_too_short_fails_alone(asr_engine: Engine, tmp_path: Path) -> None:
    drive = Drive(asr_engine)
    short, good = add(drive, write_wav(tmp_path / "a.wav", np.zeros(800))), add(drive, CLIP)
    drive.run()
    assert isinstance(drive.errors[short.id], BadRequest)
    assert words(drive.text(good)) == words(CLIPS[CLIP.name])


@pytest.mark.models
@pytest.mark.parametrize(
    ("fields", "code"),
    [({"language": "German"}, "unsupported_value"), ({"language": "xx"}, "invalid_value")],
)
def test_a_language_that_the_model_does_not_have_is_refused(
    asr_engine: Engine, fields: dict, code: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        asr_engine.prepare(spec("transcription", **fields), str(CLIP))
    assert (refused.value.param, refused.value.code) == ("language", code)


@pytest.mark.parametrize(
    ("language", "code"), [("en", "en"), ("Chinese", "zh"), ("GERMAN", "de"), (None, None)]
)
def test_a_language_is_a_code_or_an_english_name(language: str | None, code: str | None) -> None:
    assert code_of(language) == code
