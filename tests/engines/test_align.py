"""Where the aligner's words stand in the text, and when they were said."""

import numpy as np
import pytest
from mlx_audio import stt

from shared.transcript import Word
from tests import checkpoints
from workers.engines.asr.align import Aligner, place, sentences
from workers.engines.asr.audio import RATE

pytestmark = pytest.mark.models

TEXT = "“Don’t stop,” said Mr. X-Ray (twice). 3.5 metres?"


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory) -> Aligner:
    return Aligner(stt.load(checkpoints.qwen3_forced_aligner(tmp_path_factory.mktemp("aligner"))))


def noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(int(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "words", "pieces"),
    [
        ("Hello, world.", ["Hello", "world"], ["Hello,", " world."]),
        ("你好，世界。", ["你", "好", "世", "界"], ["你", "好，", "世", "界。"]),
        ("他说「好」。", ["他", "说", "好"], ["他", "说", "「好」。"]),
        (" well ", ["well"], [" well "]),
        (
            TEXT,
            ["Dont", "stop", "said", "Mr", "XRay", "twice", "35", "metres"],
            ["“Don’t", " stop,”", " said", " Mr.", " X-Ray", " (twice).", " 3.5", " metres?"],
        ),
        ("ab", ["abc", "d"], ["ab", ""]),
    ],
)
def test_the_pieces_of_the_words_join_to_the_text(text: str, words: list[str], pieces: list[str]) -> None:
    assert place(text, words) == pieces
    assert "".join(pieces) == text


def test_a_sentence_ends_with_its_punctuation_and_what_closes_behind_it() -> None:
    spoken = ["He said", " “no.”", " Why?", " 因为。", " So"]
    found = sentences([(piece, Word(piece.strip(), 0.0, 1.0)) for piece in spoken])
    assert ["".join(piece for piece, _ in sentence) for sentence in found] == [
        "He said “no.”",
        " Why?",
        " 因为。",
        " So",
    ]


@pytest.mark.parametrize("seconds", [1.0, 3.0, 7.5])
def test_words_are_said_when_mlx_audio_says(aligner: Aligner, seconds: float) -> None:
    samples = noise(seconds)
    own = aligner._model.generate(samples, TEXT, "English").items
    ours = [word for _, word in aligner.words(samples, TEXT, "English")]
    assert len({word.start for word in ours}) > 1
    starts = np.maximum.accumulate(np.clip([[i.start_time, i.end_time] for i in own], 0, seconds).ravel())
    assert np.allclose([time for word in ours for time in (word.start, word.end)], starts)


@pytest.mark.parametrize("language", ["English", "Chinese", "Japanese", "Korean", "Klingon"])
def test_times_never_go_back_and_stay_inside_the_audio_in_any_language(
    aligner: Aligner, language: str
) -> None:
    text = "Hello 世界。 こんにちは 안녕 하세요!"
    words = aligner.words(noise(0.4), text, language)
    times = [time for _, word in words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 0.4
    assert "".join(piece for piece, _ in words) == text


def test_a_text_without_words_has_none(aligner: Aligner) -> None:
    assert aligner.words(noise(1), "…", "English") == []
