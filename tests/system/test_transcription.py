"""Transcription on the real Whisper through HTTP: what is heard, what it costs, and what a crash costs."""

import json
import re
import signal
import threading
import wave
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jiwer
import numpy as np
import pytest
import webvtt

from shared.manifest import Manifest
from shared.settings import read_settings
from tests.system.conftest import System, until
from workers import memory, weights

pytestmark = pytest.mark.models

DATA = Path(__file__).parent.parent / "data"
TRANSCRIPTS: dict[str, str] = json.loads((DATA / "transcripts.json").read_text(encoding="utf-8"))
MODEL = "whisper-tiny.en"
CLIP = "austen-0870.flac"
ENDPOINT = "/v1/audio/transcriptions"
ROWS = 8  # of the model, by default
HEARD = re.compile(r"job (\S+): heard chunk (\d+)")


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def transcribe(system: System, name: str, content: bytes, **fields: Any) -> httpx.Response:
    form, files = {"model": MODEL} | fields, {"file": (name, content)}
    return httpx.post(f"{system.url}{ENDPOINT}", data=form, files=files, timeout=180).raise_for_status()


def queue(system: System, name: str, content: bytes, **fields: Any) -> str:
    form = {"endpoint": ENDPOINT, "model": MODEL} | fields
    return httpx.post(f"{system.url}/v1/jobs", data=form, files={"file": (name, content)}).json()["id"]


def result(system: System, job_id: str) -> httpx.Response:
    job = f"{system.url}/v1/jobs/{job_id}"
    until(lambda: httpx.get(job).json()["status"] not in ("queued", "in_progress"))
    return httpx.get(f"{job}/result")


def endless(wav: bytes) -> bytes:
    """A WAV file whose header says that it goes on to the end, as of a recording that was piped."""
    return wav[:4] + b"\xff" * 4 + wav[8:40] + b"\xff" * 4 + wav[44:]


@pytest.fixture(scope="module")
def own() -> Iterator[Any]:
    """mlx-audio's Whisper in this process."""
    memory.preload_blas()
    from workers.engines.asr import load_model

    settings = read_settings()
    entry = Manifest.load(settings.models_file).resolve(MODEL)
    yield load_model(weights.ensure(entry, settings.models_dir), ROWS)._model


@pytest.fixture(scope="module")
def minutes() -> bytes:
    """Two minutes of speech and pauses, as a WAV file."""
    import io

    from workers.engines.asr.audio import RATE, decode

    clips = [decode(str(DATA / name), 60) for name in TRANSCRIPTS]
    pieces = [piece for clip in clips * 4 for piece in (clip, np.zeros(RATE // 2, np.float32))]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes((np.concatenate(pieces) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def test_text_and_times_of_every_clip_are_those_of_mlx_audio_on_the_same_chunk(
    system: System, own: Any
) -> None:
    from workers.engines.asr.audio import RATE, decode
    from workers.engines.asr.chunker import chunks

    heard = []
    for name in TRANSCRIPTS:
        fields = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
        answer = transcribe(system, name, (DATA / name).read_bytes(), **fields).json()
        [chunk] = chunks([decode(str(DATA / name), 60)], 30)
        begin, end = chunk.start / RATE, chunk.end / RATE
        expected = own.generate(chunk.samples, language="en", fp16=False, word_timestamps=True, verbose=None)
        spoken = [segment for segment in expected.segments if segment["text"].strip()]

        def placed(times: Any, begin: float = begin, end: float = end) -> list:
            return [pytest.approx(min(begin + at, end), abs=0.002) for at in times]

        assert answer["text"] == expected.text.strip()
        for segment, other in zip(answer["segments"], spoken, strict=True):
            assert segment["text"] == other["text"]
            assert [segment["start"], segment["end"]] == placed([other["start"], other["end"]])
        timed = [word for segment in spoken for word in segment["words"]]
        assert [word["word"] for word in answer["words"]] == [word["word"].strip() for word in timed]
        for word, other in zip(answer["words"], timed, strict=True):
            assert [word["start"], word["end"]] == placed([other["start"], other["end"]])
        heard.append(answer["text"])
    assert jiwer.wer([words(text) for text in TRANSCRIPTS.values()], [words(text) for text in heard]) <= 0.10


def test_a_long_recording_is_whole_streamed_and_as_subtitles(system: System, minutes: bytes) -> None:
    said = words(" ".join([*TRANSCRIPTS.values()] * 4))
    job_id = queue(system, "long.wav", minutes, response_format="vtt")
    with httpx.stream(
        "POST", f"{system.url}{ENDPOINT}", data={"model": MODEL, "stream": "true"},
        files={"file": ("long.wav", minutes)}, timeout=180,
    ) as answer:  # fmt: skip
        frames = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert "".join(frame["delta"] for frame in frames[:-1]) == frames[-1]["text"]
    assert frames[-1]["usage"]["type"] == "duration"
    assert jiwer.wer(said, words(frames[-1]["text"])) <= 0.10

    captions = webvtt.from_string(result(system, job_id).text)
    assert words(" ".join(caption.text for caption in captions)) == words(frames[-1]["text"])
    ends = [(caption.start_in_seconds, caption.end_in_seconds) for caption in captions]
    assert ends == sorted(ends)


def test_memory_of_the_worker_does_not_grow_with_the_recording(system: System, minutes: bytes) -> None:
    """The same speech, by itself and before 50 minutes of silence, which would take 190 MB."""
    worker = system.part("worker", MODEL)

    def peak(content: bytes) -> int:
        found, over = [0], threading.Event()

        def look() -> None:
            while not over.wait(0.05):
                found[0] = max(found[0], worker.memory_info().rss)

        thread = threading.Thread(target=look)
        thread.start()
        transcribe(system, "a.wav", content)
        over.set()
        thread.join()
        return found[0]

    second = 32_000  # bytes; the file's header counts for less than one
    short = peak(minutes[: 60 * second])
    assert peak(endless(minutes[: 60 * second]) + bytes(3000 * second)) <= 1.1 * short


@pytest.mark.slow
def test_twenty_clips_survive_three_deaths_of_their_worker(system: System) -> None:
    names = [name for _, name in zip(range(20), [*TRANSCRIPTS] * 4, strict=False)]
    clips = {name: (DATA / name).read_bytes() for name in TRANSCRIPTS}
    alone = {name: transcribe(system, name, clip).json()["text"] for name, clip in clips.items()}
    log = system.output.stat().st_size
    jobs = [(queue(system, name, clips[name]), name) for name in names]

    def finished() -> int:
        page = httpx.get(f"{system.url}/v1/jobs", params={"status": "completed", "limit": 100}).json()["data"]
        return len({job["id"] for job in page} & {job_id for job_id, _ in jobs})

    for enough in (2, 7, 12):
        until(lambda enough=enough: finished() >= enough)
        system.part("worker", MODEL).send_signal(signal.SIGKILL)
        until(lambda: system.ready(MODEL))

    for job_id, name in jobs:
        assert result(system, job_id).json()["text"] == alone[name]
        events = httpx.get(f"{system.url}/v1/jobs/{job_id}/events", timeout=30).text
        assert events.count("event: delta") == events.count("event: done") == 1
    with system.output.open() as output:
        output.seek(log)
        heard = Counter(HEARD.findall(output.read()))
    assert set(heard) == {(job_id, "0") for job_id, _ in jobs}
    assert sum(times - 1 for times in heard.values()) <= 3 * ROWS


def test_a_file_below_an_allowed_folder_is_heard_where_it_is(system: System) -> None:
    body = {"model": MODEL, "file_path": str(system.audio / "clip.flac"), "response_format": "text"}
    answer = httpx.post(f"{system.url}{ENDPOINT}", json=body, timeout=60)
    assert answer.text == f"{transcribe(system, 'a.flac', (DATA / CLIP).read_bytes()).json()['text']}\n"
    assert (system.audio / "clip.flac").exists()
