"""What the speech engine hears in real speech, and what it refuses."""

import json
import re
import wave
from pathlib import Path

import jiwer
import numpy as np
import pytest

from shared.errors import BadRequest
from shared.events import Delta
from tests.engines.drive import Drive, spec
from workers.engine import Engine
from workers.engines.asr.audio import RATE, decode
from workers.engines.asr.languages import code_of
from workers.engines.asr.whisper import Segment, cut, ladder

DATA = Path(__file__).parent.parent / "data"
CLIPS: dict[str, str] = json.loads((DATA / "transcripts.json").read_text(encoding="utf-8"))


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def hear(engine: Engine, file: Path, **params: object) -> tuple[Drive, str]:
    job, drive = spec("transcription", **params), Drive(engine)
    drive.add(job, blob=str(file))
    drive.run()
    assert drive.errors == {}
    return drive, drive.done(job).result["text"]


def long_speech() -> np.ndarray:
    """About 35 s, two windows."""
    pause = np.zeros(RATE, np.float32)
    clips = [decode(str(DATA / name), 60) for name in CLIPS]
    return np.concatenate([piece for clip in clips * 2 for piece in (clip, pause)])[: 35 * RATE]


@pytest.mark.models
def test_hears_what_is_said(asr_engine: Engine) -> None:
    heard = [hear(asr_engine, DATA / name)[1] for name in CLIPS]
    assert jiwer.wer([words(text) for text in CLIPS.values()], [words(text) for text in heard]) <= 0.15


@pytest.mark.models
def test_says_what_mlx_audio_says(asr_engine: Engine, tmp_path: Path) -> None:
    import mlx.core as mx

    samples = long_speech()
    drive, text = hear(asr_engine, write_wav(tmp_path / "long.wav", samples))
    deltas = [event for events in drive.events.values() for event in events if isinstance(event, Delta)]

    mx.random.seed(0)
    model = asr_engine._recognizer._model
    own = model.generate(decode(str(tmp_path / "long.wav"), 60), language="en", fp16=False, verbose=None)

    assert text == own.text.strip()
    assert "".join(delta.text for delta in deltas) == text
    assert len(deltas) >= 2
    assert [delta.progress for delta in deltas] == sorted(delta.progress for delta in deltas)


@pytest.mark.models
def test_silence_and_noise_are_heard_the_same_twice(asr_engine: Engine, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.05, 2 * RATE)
    file = write_wav(tmp_path / "noise.wav", noise)
    assert hear(asr_engine, file)[1] == hear(asr_engine, file)[1]


@pytest.mark.models
def test_the_result_has_language_duration_and_whole_seconds_of_usage(asr_engine: Engine) -> None:
    drive, _ = hear(asr_engine, DATA / "something.flac", language="English", prompt="A command.")
    [done] = [events[-1] for events in drive.events.values()]
    seconds = len(decode(str(DATA / "something.flac"), 60)) / RATE
    assert (done.result["language"], done.result["duration"]) == ("en", seconds)
    assert done.usage == {"type": "duration", "seconds": int(np.ceil(seconds))}


@pytest.mark.models
def test_an_aborted_job_stops_before_its_window_ends(asr_engine: Engine) -> None:
    job, drive = spec("transcription"), Drive(asr_engine)
    drive.add(job, blob=str(DATA / "something.flac"))
    drive.step()
    drive.end(job.id)
    assert asr_engine.step() == []
    assert asr_engine.has_room(asr_engine.prepare(job, str(DATA / "something.flac")))


@pytest.mark.models
@pytest.mark.parametrize(
    ("fields", "code"),
    [({"language": "German"}, "unsupported_value"), ({"language": "xx"}, "invalid_value")],
)
def test_a_language_that_the_model_does_not_have_is_refused(
    asr_engine: Engine, fields: dict, code: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        asr_engine.prepare(spec("transcription", **fields), str(DATA / "something.flac"))
    assert (refused.value.param, refused.value.code) == ("language", code)


def test_stereo_at_another_rate_becomes_mono_at_16_khz(tmp_path: Path) -> None:
    left = tone(1, 44_100)
    stereo = np.stack([left, left], axis=1).ravel()
    samples = decode(str(write_wav(tmp_path / "a.wav", stereo, 44_100, channels=2)), 10)
    assert (samples.dtype, samples.ndim) == (np.float32, 1)
    assert len(samples) == pytest.approx(RATE, abs=50)
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"This is a letter, not a recording.\n" * 50, "not audio"),
        ("a.wav", b"", "empty"),
        ("a.mp3", b"\x00" * 5000, "not audio"),
        ("a.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n", "not audio"),
        ("a.ffconcat", b"ffconcat version 1.0\nfile a.wav\n", "not audio"),
    ],
)
def test_what_is_not_audio_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRequest, match=f"{said}.* Accepted are wav") as refused:
        decode(str(tmp_path / name), 10)
    assert (refused.value.code, refused.value.param) == ("invalid_audio", "file")


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        frame = av.VideoFrame(16, 16, "yuv420p")
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with pytest.raises(BadRequest, match="no audio stream"):
        decode(str(tmp_path / "a.mp4"), 10)


def test_audio_that_is_too_short_or_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="less than 0.1 s"):
        decode(str(write_wav(tmp_path / "a.wav", tone(0.05))), 10)
    with pytest.raises(BadRequest, match="longer than 2 s"):
        decode(str(write_wav(tmp_path / "b.wav", tone(3))), 2)


def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = write_wav(tmp_path / "a.wav", tone(2)).read_bytes()
    (tmp_path / "b.wav").write_bytes(whole[: len(whole) // 2])
    assert len(decode(str(tmp_path / "b.wav"), 10)) == pytest.approx(RATE, abs=100)


@pytest.mark.parametrize(
    ("language", "code"), [("en", "en"), ("Chinese", "zh"), ("GERMAN", "de"), (None, None)]
)
def test_a_language_is_a_code_or_an_english_name(language: str | None, code: str | None) -> None:
    assert code_of(language) == code


def test_a_temperature_that_is_asked_for_is_the_first_to_be_tried() -> None:
    assert ladder(None) == ladder(0.0) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert ladder(0.7) == pytest.approx((0.7, 0.9))
    assert ladder(1.0) == (1.0,)


@pytest.mark.parametrize(
    ("tokens", "segments", "advance"),
    [
        ([100, 1, 2, 150], [Segment(0, 50, [100, 1, 2, 150])], 3000),
        ([100, 1, 150, 150, 2, 180], [Segment(0, 50, [100, 1, 150]), Segment(50, 80, [150, 2, 180])], 3000),
        ([100, 1, 150, 150, 2], [Segment(0, 50, [100, 1, 150])], 100),
        ([100, 1, 2], [Segment(0, 1500, [100, 1, 2])], 3000),
        ([100, 100], [Segment(0, 0, [100])], 3000),
        ([], [Segment(0, 1500, [])], 3000),
    ],
)
def test_a_window_is_cut_at_pairs_of_timestamps(tokens: list, segments: list, advance: int) -> None:
    assert cut(tokens, 3000, begin=100, stride=2) == (segments, advance)
