"""Whisper hears many chunks side by side what mlx-audio hears in each alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import BadRequest
from tests.engines.hearing import hear, hear_one
from workers.engines.asr.audio import RATE, decode
from workers.engines.asr.recognizer import Asked, Hearing
from workers.engines.asr.whisper import WhisperRecognizer
from workers.engines.asr.whisper.windows import Quality, Span, cut

DATA = Path(__file__).parent.parent / "data"
CLIPS: dict[str, str] = json.loads((DATA / "transcripts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whisper(starters: dict) -> Iterator[WhisperRecognizer]:
    from workers.engines.asr import load_model

    yield load_model(starters["asr"][1], rows=8)


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    """Each clip, and all of them in 29 s, of which the model leaves the last for a second window."""
    found = {name: decode(str(DATA / name), 60) for name in CLIPS}
    return found | {"all": np.concatenate(list(found.values()))[: 29 * RATE]}


def own(whisper: WhisperRecognizer, samples: np.ndarray, **options: Any) -> Any:
    """What mlx-audio's own call says."""
    return whisper._model.generate(samples, language="en", fp16=False, verbose=None, **options)


def assert_equal(heard: Hearing, expected: Any) -> None:
    assert heard.text == expected.text.strip()
    spoken = [segment for segment in expected.segments if segment["text"].strip()]
    assert [(each.text, each.tokens) for each in heard.segments] == [(s["text"], s["tokens"]) for s in spoken]
    for segment, other in zip(heard.segments, spoken, strict=True):
        for name in ("start", "end", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"):
            assert getattr(segment, name) == pytest.approx(other[name], abs=1e-3), name


@pytest.mark.models
def test_together_with_joins_and_leaves_each_chunk_is_what_mlx_audio_hears_in_it(
    whisper: WhisperRecognizer, clips: dict[str, np.ndarray]
) -> None:
    chunks = {name: (samples, Asked()) for name, samples in clips.items()}
    gone = {"leaves": (clips["all"], Asked())}
    joins = {name: 4 * number for number, name in enumerate(clips)} | {"leaves": 2}
    heard = hear(whisper, chunks | gone, joins, leaves={"leaves": 15})

    assert set(heard) == set(clips)
    for name, samples in clips.items():
        assert_equal(heard[name], own(whisper, samples))


@pytest.mark.models
def test_words_have_the_times_that_mlx_audio_gives_them(
    whisper: WhisperRecognizer, clips: dict[str, np.ndarray]
) -> None:
    chosen = ["austen-0880.flac", "all"]
    heard = hear(whisper, {name: (clips[name], Asked(words=True)) for name in chosen})
    for name in chosen:
        expected = own(whisper, clips[name], word_timestamps=True)
        assert_equal(heard[name], expected)
        words = [(w["word"], w["start"], w["end"]) for s in expected.segments for w in s["words"]]
        assert [(w.word, w.start, w.end) for s in heard[name].segments for w in s.words] == words


@pytest.mark.models
def test_a_prompt_is_the_one_of_mlx_audio(whisper: WhisperRecognizer, clips: dict[str, np.ndarray]) -> None:
    samples, prompt = clips["austen-0880.flac"], "Jane Austen, ill-disposed"
    heard = hear_one(whisper, samples, Asked(prompt=prompt))
    assert_equal(heard, own(whisper, samples, initial_prompt=prompt))


@pytest.mark.models
def test_a_sampled_text_is_the_same_alone_and_in_company(
    whisper: WhisperRecognizer, clips: dict[str, np.ndarray]
) -> None:
    hot = clips["austen-0870.flac"], Asked(temperature=1.0)
    company = {name: (clips[name], Asked()) for name in ("austen-0880.flac", "something.flac")}
    together = hear(whisper, {"hot": hot} | company, joins={"hot": 3})
    assert together["hot"].text == hear_one(whisper, *hot).text
    assert together["hot"].text != hear_one(whisper, hot[0]).text


@pytest.mark.models
def test_the_bytes_of_logprobs_are_the_text(whisper: WhisperRecognizer, clips: dict[str, np.ndarray]) -> None:
    heard = hear_one(whisper, clips["austen-0880.flac"], Asked(logprobs=True))
    assert b"".join(bytes(each.bytes) for each in heard.logprobs).decode().strip() == heard.text
    assert all(each.logprob <= 0 for each in heard.logprobs)


@pytest.mark.models
def test_a_chunk_that_cannot_be_heard_costs_itself_alone(
    whisper: WhisperRecognizer, clips: dict[str, np.ndarray]
) -> None:
    broken = np.zeros((3, 400), np.float32)  # nothing that the chunker makes
    good = clips["austen-0880.flac"], Asked()
    heard = hear(whisper, {"good": good, "broken": (broken, Asked())}, joins={"broken": 5})
    assert isinstance(heard["broken"], Exception)
    assert heard["good"].text == hear_one(whisper, *good).text


@pytest.mark.models
def test_what_an_english_model_cannot_do_is_refused(whisper: WhisperRecognizer) -> None:
    with pytest.raises(BadRequest, match="does not translate") as refused:
        whisper.check(Asked(task="translate"))
    assert refused.value.param == "model"
    with pytest.raises(BadRequest, match="it may be 'en'") as refused:
        whisper.check(Asked(language="de"))
    assert (refused.value.param, refused.value.code) == ("language", "unsupported_value")


@pytest.mark.parametrize(
    ("text", "avg_logprob", "no_speech_prob", "wrong", "silent"),
    [
        ("He was not an ill-disposed young man.", -0.3, 0.1, False, False),
        ("thank you " * 30, -0.1, 0.1, True, False),
        ("mumble", -1.2, 0.1, True, False),
        ("Thank you.", -1.2, 0.9, False, True),
        ("He was.", -0.3, 0.9, False, False),
    ],
)
def test_a_text_is_tried_again_if_it_repeats_or_is_unsure_but_silence_is_silence(
    text: str, avg_logprob: float, no_speech_prob: float, wrong: bool, silent: bool
) -> None:
    quality = Quality.of(text, 0.0, avg_logprob, no_speech_prob)
    assert (quality.looks_wrong, quality.silent) == (wrong, silent)


@pytest.mark.parametrize(
    ("tokens", "spans", "advance"),
    [
        ([100, 1, 2, 150], [Span(0, 50, 0, 4)], 3000),
        ([100, 1, 150, 150, 2, 180], [Span(0, 50, 0, 3), Span(50, 80, 3, 6)], 3000),
        ([100, 1, 150, 150, 2], [Span(0, 50, 0, 3)], 100),
        ([100, 1, 2], [Span(0, 1500, 0, 3)], 3000),
        ([100, 100], [Span(0, 0, 0, 1)], 3000),
        ([], [Span(0, 1500, 0, 0)], 3000),
    ],
)
def test_a_window_is_cut_at_pairs_of_timestamps(tokens: list, spans: list, advance: int) -> None:
    assert cut(tokens, 3000, begin=100, stride=2) == (spans, advance)
