"""What other models of mlx-audio hear, one chunk after the other."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_audio import stt
from mlx_audio.stt.models.base import STTOutput

from shared.errors import BadRequest
from shared.transcript import Segment
from tests import checkpoints
from tests.engines.hearing import hear, hear_one
from workers.engines.asr.audio import RATE
from workers.engines.asr.onebyone import MAX_TOKENS, OneByOneRecognizer
from workers.engines.asr.recognizer import Asked, Hearing

pytestmark = pytest.mark.models


def noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(int(seconds * RATE))).astype(np.float32)


class Canary:
    """A model with the signature of mlx-audio's Canary; tells what it was asked."""

    def __init__(self, answer: STTOutput | Exception | None = None) -> None:
        self.answer = answer
        self.asked: dict[str, Any] = {}

    def generate(
        self,
        audio: Any,
        *,
        max_tokens: int = 200,
        source_lang: str = "en",
        target_lang: str = "en",
        temperature: float = 0.0,
        dtype: mx.Dtype = mx.bfloat16,
        **kwargs: Any,
    ) -> STTOutput:
        self.asked = {"source_lang": source_lang, "target_lang": target_lang, "max_tokens": max_tokens}
        self.asked |= {"dtype": dtype, "temperature": temperature, "audio": type(audio)} | kwargs
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or STTOutput(f" {mx.random.randint(0, 10**6).item()} ", segments=[{"text": "x"}])


@pytest.fixture(scope="module")
def parakeet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = stt.load(checkpoints.parakeet(tmp_path_factory.mktemp("mlx") / "parakeet-tdt-tiny"))
    model.set_dtype(mx.float32)
    return model


def test_parakeet_says_what_mlx_audio_says_with_times_of_sentences_and_words(parakeet: Any) -> None:
    samples = noise(5)
    own = parakeet.generate(mx.array(samples), dtype=mx.float32)
    heard = hear_one(OneByOneRecognizer(parakeet, {}), samples, Asked(words=True, times=True))
    assert heard.text == own.text != ""
    assert "".join(segment.text for segment in heard.segments) == own.text
    starts = [sentence.start for sentence in own.sentences]
    assert [segment.start for segment in heard.segments] == pytest.approx(starts, abs=1e-3)
    for segment in heard.segments:
        assert " ".join(word.word for word in segment.words) == segment.text.strip()
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times) and times[0] == segment.start and times[-1] == segment.end <= 5


def test_parakeet_tells_words_only_if_asked(parakeet: Any) -> None:
    heard = hear_one(OneByOneRecognizer(parakeet, {}), noise(2), Asked(times=True))
    assert heard.segments and all(segment.words is None for segment in heard.segments)


def test_chunks_are_heard_in_the_order_of_their_coming() -> None:
    recognizer, given = OneByOneRecognizer(Canary(), {}), {at: (noise(1), Asked()) for at in range(5)}
    heard = hear(recognizer, given, leaves={3: 1})
    assert list(heard) == [0, 1, 2, 4]
    assert recognizer.step() == []


def test_what_a_chunk_raises_costs_it_alone() -> None:
    error = RuntimeError("no")
    heard = hear(OneByOneRecognizer(Canary(error), {}), {"bad": (noise(1), Asked())})
    assert heard == {"bad": error}


def test_a_model_is_asked_what_it_takes_and_nothing_else() -> None:
    model = Canary()
    hear_one(OneByOneRecognizer(model, {}), noise(1), Asked(language="de", temperature=0.3))
    assert model.asked == {
        "source_lang": "de",
        "target_lang": "de",
        "max_tokens": MAX_TOKENS,
        "dtype": mx.float32,
        "temperature": 0.3,
        "audio": np.ndarray,
    }


def test_the_same_audio_gives_the_same_text_twice() -> None:
    recognizer = OneByOneRecognizer(Canary(), {})
    assert hear_one(recognizer, noise(1)) == hear_one(recognizer, noise(1))


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (STTOutput(" a ", language="German"), Hearing("a", "de", [Segment(0.0, 2.0, "a")])),
        (STTOutput("a", language="auto"), Hearing("a", None, [Segment(0.0, 2.0, "a")])),
        (STTOutput("a", language=["English"]), Hearing("a", None, [Segment(0.0, 2.0, "a")])),
        (STTOutput(""), Hearing("")),
        (
            STTOutput(
                "a b",
                segments=[{"text": "a", "start": 0, "end": 1.5}, {"text": " b", "start": 1.5, "end": 3}],
            ),
            Hearing("a b", None, [Segment(0, 1.5, "a"), Segment(1.5, 2.0, " b")]),
        ),
        (
            STTOutput("a", segments=[{"text": "a", "start": 0.0, "end": 0.0}]),
            Hearing("a", None, [Segment(0.0, 2.0, "a")]),
        ),
        (
            STTOutput("a", segments=[{"text": "a", "confidence": 1}]),
            Hearing("a", None, [Segment(0.0, 2.0, "a")]),
        ),
    ],
)
def test_what_models_return_becomes_text_and_segments(answer: STTOutput, heard: Hearing) -> None:
    assert hear_one(OneByOneRecognizer(Canary(answer), {}), noise(2)) == heard


def test_a_language_that_is_asked_for_is_given_back() -> None:
    heard = hear_one(
        OneByOneRecognizer(Canary(STTOutput("a", language="en")), {}), noise(1), Asked(language="de")
    )
    assert heard.language == "de"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"task": "translate"}, "model"),
        ({"prompt": "a fox"}, "prompt"),
        ({"logprobs": True}, "include"),
        ({"language": "fr"}, "language"),
        ({"words": True}, "timestamp_granularities"),
        ({"times": True}, "response_format"),
    ],
)
def test_what_a_model_cannot_do_is_refused(asked: dict, param: str) -> None:
    recognizer = OneByOneRecognizer(Canary(), {"support_languages": ["German", "en"]})
    with pytest.raises(BadRequest) as refused:
        recognizer.check(Asked(**asked))
    assert refused.value.param == param


@pytest.mark.parametrize("asked", [{"language": "en"}, {"temperature": 0.5}])
def test_parakeet_takes_no_language_and_no_temperature(parakeet: Any, asked: dict) -> None:
    with pytest.raises(BadRequest) as refused:
        OneByOneRecognizer(parakeet, {}).check(Asked(**asked))
    assert refused.value.param in asked


def test_what_a_model_can_do_is_not_refused(parakeet: Any) -> None:
    recognizer = OneByOneRecognizer(Canary(), {"support_languages": ["German", "en"]})
    recognizer.check(Asked(language="de", temperature=0.5))
    recognizer.check(Asked(language="en"))
    OneByOneRecognizer(parakeet, {}).check(Asked(times=True, words=True))


def test_a_qwen_without_its_recognizer_is_heard_by_its_own_generate(tmp_path: Path) -> None:
    model = stt.load(checkpoints.qwen3_asr(tmp_path, says="language English<asr_text>Hello world."))
    assert hear_one(OneByOneRecognizer(model, {}), noise(1)).text == "Hello world."


def test_urgent_chunks_leave_the_others_a_share() -> None:
    recognizer = OneByOneRecognizer(Canary(), {})
    recognizer.add("other", noise(0.2), Asked())
    heard = []
    for number in range(12):
        recognizer.add(number, noise(0.2), Asked(urgent=True))
        heard += [key for key, _ in recognizer.step()]
    assert heard == [*range(8), "other", 8, 9, 10]
