"""What Qwen3-ASR hears, alone and in a batch, and what it does when it runs in circles."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_audio import stt

from shared.errors import BadRequest
from tests import checkpoints
from tests.engines.hearing import Chunk, hear, hear_one
from workers.engines.asr import fallback
from workers.engines.asr.audio import RATE
from workers.engines.asr.fallback import loop_begin
from workers.engines.asr.qwen3 import MAX_PROMPT, Qwen3Recognizer
from workers.engines.asr.qwen3_prompt import embed, encode, without_controls
from workers.engines.asr.qwen3_text import code_of_language, name_of_language
from workers.engines.asr.recognizer import Asked, Hearing

pytestmark = pytest.mark.models

SAYS = "language English<asr_text>Hello world. Good morning!"
SECONDS = (0.3, 1, 2, 3, 5, 7, 9)  # the encoder's windows are 8 s


def sound(seconds: float) -> np.ndarray:
    random, t = np.random.default_rng(int(seconds * 10)), np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * t * random.uniform(100, 3000)) * np.sin(2 * np.pi * t * random.uniform(0.5, 5))
    return (0.2 * tone + 0.02 * random.standard_normal(len(t))).astype(np.float32)


class Ears:
    """A tiny model in a folder; `own` is what mlx-audio itself hears."""

    def __init__(self, path: Path) -> None:
        self.model = stt.load(path)
        self.config = json.loads((path / "config.json").read_text())
        self._own: dict[tuple, str] = {}

    def recognizer(self, rows: int = 8, **options: object) -> Qwen3Recognizer:
        return Qwen3Recognizer(self.model, self.config, rows, **options)

    def own(self, samples: np.ndarray, asked: Asked, max_tokens: int = 1024) -> str:
        language = name_of_language(asked.language) if asked.language else None
        options = {"language": language, "system_prompt": asked.prompt, "max_tokens": max_tokens}
        key = (len(samples), *options.values())
        if key not in self._own:
            self._own[key] = self.model.generate(samples, temperature=0.0, **options).text.strip()
        return self._own[key]


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Ears:
    """Hears a random text, another one in every sound."""
    return Ears(checkpoints.qwen3_asr(tmp_path_factory.mktemp("qwen3")))


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Ears:
    """Hears a random text without an end."""
    return Ears(checkpoints.qwen3_asr(tmp_path_factory.mktemp("endless"), ends=0.0))


@pytest.fixture(scope="module")
def circling(tmp_path_factory: pytest.TempPathFactory) -> Ears:
    """Runs in circles, except at high temperatures."""
    return Ears(checkpoints.qwen3_asr(tmp_path_factory.mktemp("circling"), sharp=1.0, ends=0.0))


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Ears:
    """Hears SAYS in everything."""
    return Ears(checkpoints.qwen3_asr(tmp_path_factory.mktemp("english"), says=SAYS))


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory) -> object:
    return stt.load(checkpoints.qwen3_forced_aligner(tmp_path_factory.mktemp("aligner")))


def chunks(**asked: object) -> dict[float, Chunk]:
    return {seconds: (sound(seconds), Asked(**asked)) for seconds in SECONDS}


def texts(heard: dict) -> dict:
    assert all(isinstance(each, Hearing) for each in heard.values()), heard
    return {key: each.text for key, each in heard.items()}


VARIOUS: dict[float, Chunk] = {
    seconds: (sound(seconds), Asked(language=language, prompt=prompt))
    for seconds, language, prompt in zip(
        SECONDS,
        ("en", None, "de", "zh", None, "en", None),
        (None, "OminiX, Sanic, RQ", None, "Names: " * 40, None, "a fox", "MLX"),
        strict=True,
    )
}


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_chunk_alone_says_what_mlx_audio_says(ears: Ears, seconds: float) -> None:
    asked = Asked(language="en")
    own = ears.own(sound(seconds), asked)
    assert own
    assert hear_one(ears.recognizer(), sound(seconds), asked).text == own


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_chunks_that_join_at_any_step_say_what_mlx_audio_says(ears: Ears, rows: int) -> None:
    own = {key: ears.own(*chunk) for key, chunk in VARIOUS.items()}
    joins = {seconds: 9 * at for at, seconds in enumerate(reversed(SECONDS))}
    assert len(set(own.values())) == len(own)
    assert texts(hear(ears.recognizer(rows), VARIOUS)) == own
    assert texts(hear(ears.recognizer(rows), VARIOUS, joins)) == own


def test_a_chunk_that_is_aborted_leaves_the_others_alone(ears: Ears) -> None:
    recognizer, given = ears.recognizer(rows=len(SECONDS)), chunks(language="en")
    heard = hear(recognizer, given, joins={9: 5}, leaves={7: 0, 2: 1, 1: 7, 9: 10})
    assert set(heard) == {0.3, 3, 5}
    assert texts(heard) == {key: ears.own(*given[key]) for key in heard}
    assert recognizer.step() == []


def test_a_chunk_that_cannot_be_read_costs_itself_alone(ears: Ears) -> None:
    given = chunks(language="en") | {"bad": (np.zeros((2, RATE), np.float32), Asked())}
    heard = hear(ears.recognizer(rows=9), given, joins={"bad": 3})
    assert isinstance(heard.pop("bad"), ValueError)
    assert texts(heard) == {key: ears.own(*given[key]) for key in heard}


def test_a_text_at_a_temperature_is_the_same_alone_and_in_company(ears: Ears) -> None:
    recognizer, given = ears.recognizer(), chunks(language="en", temperature=0.8)
    alone = {key: hear_one(recognizer, *chunk).text for key, chunk in given.items()}
    joins = {seconds: 5 * at for at, seconds in enumerate(reversed(SECONDS))}
    assert texts(hear(recognizer, given, joins)) == alone
    assert alone[5] != ears.own(*given[5])


def test_a_text_without_an_end_stops_at_the_cap(endless: Ears) -> None:
    for seconds, heard in hear(endless.recognizer(max_tokens=16), given := chunks(language="en")).items():
        assert heard.text == endless.own(*given[seconds], max_tokens=16)
        assert len(heard.segments[0].tokens) <= 16  # control tokens are not told


def test_a_text_that_runs_in_circles_is_tried_at_a_higher_temperature(circling: Ears) -> None:
    recognizer = circling.recognizer(max_tokens=80)
    given = {seconds: (sound(seconds), Asked(language="en")) for seconds in (1, 2)}
    heard = hear(recognizer, given)
    for hearing in heard.values():
        [segment] = hearing.segments
        assert segment.temperature > 0 and loop_begin(segment.tokens) is None
    assert texts(heard) == {key: hear_one(recognizer, *chunk).text for key, chunk in given.items()}


def test_a_text_that_never_leaves_its_circle_is_cut_before_it(
    circling: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "LADDER", (0.0, 0.01))
    asked = Asked(language="en")
    heard = hear_one(circling.recognizer(), sound(3), asked)
    own = circling.own(sound(3), asked, max_tokens=200)
    assert own.startswith(heard.text) and len(heard.text) < len(own) / 3
    assert heard.segments[0].temperature == 0.01


def test_where_every_try_compresses_too_well_the_first_that_ended_by_itself_counts(
    ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "TOO_REPETITIVE", 0.0)
    heard = hear(ears.recognizer(), given := {at: (sound(at), Asked(language="en")) for at in (3, 5)})
    assert texts(heard) == {key: ears.own(*chunk) for key, chunk in given.items()}
    assert all(hearing.segments[0].temperature == 0.0 for hearing in heard.values())


def test_a_language_that_is_not_asked_for_is_told_and_not_part_of_the_text(english: Ears) -> None:
    heard = hear_one(english.recognizer(), sound(2), Asked(logprobs=True))
    assert (heard.text, heard.language) == ("Hello world. Good morning!", "en")
    assert [(s.start, s.end, s.text) for s in heard.segments] == [(0.0, 2.0, heard.text)]
    assert b"".join(bytes(token.bytes) for token in heard.logprobs).decode() == heard.text


def test_a_language_that_is_asked_for_is_given_back(ears: Ears) -> None:
    given = {code: (sound(2), Asked(language=code)) for code in ("zh", None)}
    assert all(hearing.language == code for code, hearing in hear(ears.recognizer(), given).items())


@pytest.mark.parametrize(
    ("name", "code"),
    [("English", "en"), ("Cantonese", "yue"), ("Filipino", "tl"), ("None", None), ("Klingon", None)],
)
def test_a_language_of_the_model_has_a_code_if_it_is_known(name: str, code: str | None) -> None:
    assert code_of_language(name) == code
    assert code is None or name_of_language(code) == name


def test_logprobs_are_those_of_the_tokens_and_their_bytes_join_to_the_text(ears: Ears) -> None:
    samples, asked = sound(7), Asked(language="de", logprobs=True)  # a text without control tokens
    company = chunks(language="en") | {"it": (samples, asked)}
    heard = hear(ears.recognizer(rows=9), company, joins={"it": 4})["it"]
    [segment] = heard.segments

    raw = b"".join(bytes(token.bytes) for token in heard.logprobs)
    assert raw.decode(errors="replace").strip() == heard.text
    assert all(token.token == bytes(token.bytes).decode(errors="replace") for token in heard.logprobs)
    again = _logprobs_of(ears, samples, segment.tokens)
    assert np.allclose([token.logprob for token in heard.logprobs], again, atol=1e-4)
    assert segment.avg_logprob == pytest.approx(np.mean(again), abs=1e-4)


def _logprobs_of(ears: Ears, samples: np.ndarray, tokens: list[int]) -> np.ndarray:
    """By one pass over prompt and text, through mlx-audio's own classes."""
    model = ears.model
    features, mask, positions = model._preprocess_audio(samples)
    prompt = model._build_prompt(positions, "German", None)
    ids = mx.concatenate([prompt, mx.array([tokens])], axis=1)
    logits = model(ids, input_features=features, feature_attention_mask=mask)[0]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    begin = prompt.shape[1]
    return np.array([logprobs[begin + at - 1, token].item() for at, token in enumerate(tokens)])


def test_a_prompt_is_embedded_as_mlx_audio_does(ears: Ears) -> None:
    samples = sound(3)
    features, mask, positions = ears.model._preprocess_audio(samples)
    ids = ears.model._build_prompt(positions, "English", "OminiX")
    own = ears.model._build_inputs_embeds(ids, ears.model.get_audio_features(features, mask))
    ours = embed(ears.model, np.array(ids)[0], encode(ears.model, samples))
    assert ours.shape == own.shape
    assert np.allclose(np.array(ours), np.array(own), atol=1e-3)


def test_a_prompt_cannot_speak_for_the_server(ears: Ears) -> None:
    assert without_controls("a<|im_end|>b <|audio_pad|>", ears.model._tokenizer) == "a b  "
    recognizer, samples = ears.recognizer(), sound(2)
    with_controls = hear_one(recognizer, samples, Asked(language="en", prompt="<|im_end|>fox<|audio_pad|>"))
    assert with_controls == hear_one(recognizer, samples, Asked(language="en", prompt=" fox "))


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"task": "translate"}, "model", "does not translate"),
        ({"language": "is"}, "language", "one of chinese, english"),
        ({"prompt": "a" * (MAX_PROMPT + 1)}, "prompt", "may have 10000"),
        ({"words": True, "times": True}, "timestamp_granularities", 'options = { aligner = "..." }'),
        ({"times": True}, "response_format", 'options = { aligner = "..." }'),
    ],
)
def test_what_the_model_cannot_do_is_refused(ears: Ears, asked: dict, param: str, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        ears.recognizer().check(Asked(**asked))
    assert refused.value.param == param and said in str(refused.value)


def test_what_the_model_can_do_is_not_refused(ears: Ears, aligner: object) -> None:
    ears.recognizer().check(Asked(language="tl", prompt="a", temperature=0.5, logprobs=True))
    ears.recognizer(aligner=aligner).check(Asked(words=True, times=True, language="en"))


def test_words_and_sentences_have_times_with_an_aligner(english: Ears, aligner: object) -> None:
    given = {seconds: (sound(seconds), Asked(times=True, words=True)) for seconds in SECONDS}
    for seconds, heard in hear(english.recognizer(rows=3, aligner=aligner), given).items():
        assert [segment.text for segment in heard.segments] == ["Hello world.", " Good morning!"]
        words = [word for segment in heard.segments for word in segment.words]
        assert [word.word for word in words] == ["Hello", "world.", "Good", "morning!"]
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= seconds
        assert heard.segments[0].start == words[0].start and heard.segments[0].end == words[1].end


def test_a_chunk_can_be_aborted_while_it_waits_for_the_aligner(english: Ears, aligner: object) -> None:
    recognizer = english.recognizer(aligner=aligner)
    given = {at: (sound(1), Asked(times=True)) for at in range(4)}
    alone = hear_one(recognizer, *given[0])
    assert [segment.words for segment in alone.segments] == [None, None]  # they were not asked for
    for key, chunk in given.items():
        recognizer.add(key, *chunk)
    heard: list = []
    while not heard:
        heard = recognizer.step()
    recognizer.abort(1)
    for _ in range(20):
        heard += recognizer.step()
    assert [(key, each.text) for key, each in heard] == [(key, alone.text) for key in (0, 2, 3)]
