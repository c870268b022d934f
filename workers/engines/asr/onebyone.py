"""Every other speech model of mlx-audio, by its own `generate`: one chunk a step, in order."""

import inspect
from collections import deque
from typing import Any

import mlx.core as mx
import numpy as np
from msgspec.structs import replace

from shared.errors import BadRequest
from shared.transcript import Segment, Word
from shared.validation import not_supported
from workers import memory
from workers.engines.asr.audio import RATE
from workers.engines.asr.languages import cannot_translate, code_of, name_of, not_spoken
from workers.engines.asr.recognizer import Asked, Hearing, Key

MAX_TOKENS = 1024  # of a chunk: a model that runs wild stops there
SEED = 0  # the same audio gives the same text, at a temperature too
PROMPTS = ("system_prompt", "initial_prompt", "context")  # what models call it
SHARE = 8  # urgent chunks, and then one that is not
LANGUAGES = ("source_language", "source_lang", "language")  # the first that a model has: of what is said


class OneByOneRecognizer:
    """A loaded mlx-audio model. `config` is its config.json."""

    rows = 1  # a step hears it whole
    longest = 30.0

    def __init__(self, model: Any, config: dict[str, Any]) -> None:
        self._model = model
        self._languages = [name.lower() for name in config.get("support_languages") or ()]
        self._takes = inspect.signature(model.generate).parameters
        self._prompt = next((name for name in PROMPTS if name in self._takes), None)
        self._language = next((name for name in LANGUAGES if name in self._takes), None)
        self._aligned = tells_times(type(model))
        self._waiting: deque[tuple[Key, np.ndarray, Asked]] = deque()
        self._passed = 0  # urgent chunks heard since the last other one

    def check(self, asked: Asked) -> None:
        if asked.task != "transcribe":
            raise cannot_translate()
        if asked.prompt and not self._prompt:
            raise not_supported("prompt", None, ())
        if asked.temperature and "temperature" not in self._takes:
            raise not_supported("temperature", asked.temperature, (0,))
        if asked.logprobs:
            raise not_supported("include", "logprobs", ())
        if (asked.words or asked.times) and not self._aligned:
            raise _no_times(asked)
        if asked.language:
            self._check_language(asked.language)

    def _check_language(self, code: str) -> None:
        if not self._language:
            raise not_supported("language", code, ())
        if self._languages and not {code, name_of(code).lower()} & set(self._languages):
            raise not_spoken(code, f"one of {', '.join(self._languages)}")

    def add(self, key: Key, samples: np.ndarray, asked: Asked) -> None:
        self._waiting.append((key, samples, asked))

    def abort(self, key: Key) -> None:
        self._waiting = deque(chunk for chunk in self._waiting if chunk[0] != key)

    def step(self) -> list[tuple[Key, Hearing | Exception]]:
        if not self._waiting:
            return []
        urgent = self._passed < SHARE
        key, samples, asked = next(
            (each for each in self._waiting if each[2].urgent == urgent), self._waiting[0]
        )
        self._passed = self._passed + 1 if asked.urgent else 0
        self.abort(key)
        try:
            return [(key, self._hear(samples, asked))]
        except Exception as error:  # whatever a chunk makes the model raise costs this chunk alone
            return [(key, error)]

    def _hear(self, samples: np.ndarray, asked: Asked) -> Hearing:
        mx.random.seed(SEED)
        result = self._model.generate(self._audio(samples), **self._options(asked))
        seconds = len(samples) / RATE
        if hasattr(result, "sentences"):
            segments = [_aligned(sentence, seconds, asked.words) for sentence in result.sentences]
            return _hearing(result.text, asked.language, segments)
        said = result.text.strip()
        segments = _timed(result.segments or (), seconds) or ([Segment(0.0, seconds, said)] if said else [])
        return _hearing(said, asked.language or _code(result.language), segments)

    def _audio(self, samples: np.ndarray) -> np.ndarray | mx.array:
        """`samples` as the model wants them, which its annotation tells: Parakeet takes no other."""
        wanted = str(next(iter(self._takes.values())).annotation)
        takes_numpy = "ndarray" in wanted or "List" in wanted or "core.array" not in wanted
        return samples if takes_numpy else mx.array(samples)

    def _options(self, asked: Asked) -> dict[str, Any]:
        wished = {
            "max_tokens": MAX_TOKENS,
            "temperature": asked.temperature or 0.0,
            "dtype": None if memory.compact() else mx.float32,  # some compute at 16 bits, slow on a CPU
            "target_lang": asked.language,  # Canary would translate into English
            self._language: asked.language,
            self._prompt: asked.prompt,
        }
        return {name: wish for name, wish in wished.items() if wish is not None and name in self._takes}


def tells_times(kind: type) -> bool:
    """Whether a model's `generate` says that it returns sentences with times."""
    generators = (vars(each)["generate"] for each in kind.__mro__ if "generate" in vars(each))
    return any("AlignedResult" in str(inspect.signature(each).return_annotation) for each in generators)


def _hearing(text: str, language: str | None, segments: list[Segment]) -> Hearing:
    """With no white space around the text, to which the texts of the segments join."""
    if segments:
        segments = [replace(segments[0], text=segments[0].text.lstrip()), *segments[1:]]
        segments[-1] = replace(segments[-1], text=segments[-1].text.rstrip())
    return Hearing(text.strip(), language, segments)


def _aligned(sentence: Any, seconds: float, words: bool) -> Segment:
    """A sentence of NeMo's alignment, with times inside the chunk."""
    return Segment(
        _inside(sentence.start, seconds),
        _inside(sentence.end, seconds),
        sentence.text,
        tokens=[token.id for token in sentence.tokens],
        words=_words(sentence.tokens, seconds) if words else None,
    )


def _words(tokens: list[Any], seconds: float) -> list[Word]:
    """Tokens merged at the spaces that words begin with."""
    words: list[list[Any]] = []
    for token in tokens:
        if not words or token.text.startswith(" "):
            words.append([])
        words[-1].append(token)
    return [
        Word(
            "".join(token.text for token in word).strip(),
            _inside(word[0].start, seconds),
            _inside(word[-1].end, seconds),
        )
        for word in words
    ]


def _inside(time: float, seconds: float) -> float:
    return round(min(time, seconds), 3)


def _timed(segments: Any, seconds: float) -> list[Segment]:
    """What a model returns as dictionaries; nothing if one of them has no times."""
    spans = [(each.get("start"), each.get("end"), each.get("text") or "") for each in segments]
    if not all(isinstance(start, int | float) and isinstance(end, int | float) for start, end, _ in spans):
        return []
    if not all(0 <= start < end for start, end, _ in spans):
        return []
    return [Segment(min(start, seconds), min(end, seconds), text) for start, end, text in spans]


def _code(language: Any) -> str | None:
    """The ISO 639 code of what a model calls a language; None for "auto" and what is not known."""
    try:
        return code_of(language) if isinstance(language, str) else None
    except BadRequest:
        return None


def _no_times(asked: Asked) -> BadRequest:
    return BadRequest(
        f"This model does not tell when {'words' if asked.words else 'sentences'} are said; "
        "Whisper, Parakeet, and Qwen3-ASR with an aligner do.",
        param="timestamp_granularities" if asked.words else "response_format",
        code="unsupported_value",
    )
