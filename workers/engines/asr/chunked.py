"""Every other speech model of mlx-audio, by its own `generate`, a chunk of the audio at a time."""

import inspect
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_audio.stt.models.qwen3_asr.qwen3_asr import split_audio_into_chunks

from shared.validation import not_supported
from workers.engines.asr.audio import RATE
from workers.engines.asr.languages import name_of, not_spoken
from workers.engines.asr.recognizer import Asked, Piece

CHUNK = 60.0  # seconds; the cut is made at a quiet place near it
MAX_TOKENS = 1024  # of a chunk: a model that runs wild stops there
PROMPTS = ("system_prompt", "initial_prompt", "context")  # what models call it
SAYS_PIECES = {"qwen3_asr"}  # models whose `stream=True` yields what is new, token by token


class ChunkedRecognizer:
    """A loaded mlx-audio model. `config` is its config.json."""

    def __init__(self, model: Any, config: dict[str, Any]) -> None:
        self._model = model
        self._streams = config.get("model_type") in SAYS_PIECES
        self._languages = [name.lower() for name in config.get("support_languages") or ()]
        self._takes = frozenset(inspect.signature(model.generate).parameters)

    def check(self, asked: Asked) -> None:
        if asked.prompt and not self._prompt:
            raise not_supported("prompt", None, ())
        if asked.temperature and "temperature" not in self._takes:
            raise not_supported("temperature", asked.temperature, (0,))
        if not asked.language:
            return
        if "language" not in self._takes:
            raise not_supported("language", asked.language, ())
        if self._languages and name_of(asked.language).lower() not in self._languages:
            raise not_spoken(asked.language, f"one of {', '.join(self._languages)}")

    @property
    def _prompt(self) -> str | None:
        return next((name for name in PROMPTS if name in self._takes), None)

    def run(self, audio: np.ndarray, asked: Asked) -> Iterator[Piece]:
        language = asked.language
        for chunk, offset in split_audio_into_chunks(audio, RATE, chunk_duration=CHUNK):
            said = " " if offset else ""
            for heard in self._heard(chunk, asked):
                language = getattr(heard, "language", None) or language
                yield Piece(said + heard.text, language=language)
                said = ""
            mx.clear_cache()
            yield Piece("", min((offset + len(chunk) / RATE) * RATE / len(audio), 1.0), language)

    def _heard(self, chunk: np.ndarray, asked: Asked) -> Iterator[Any]:
        wished = {
            "max_tokens": MAX_TOKENS,
            "temperature": asked.temperature or 0.0,
            "language": name_of(asked.language) if asked.language else None,
        }
        options = {name: wish for name, wish in wished.items() if wish is not None and name in self._takes}
        if asked.prompt and self._prompt:
            options[self._prompt] = asked.prompt
        if self._streams:
            yield from self._model.generate(chunk, stream=True, **options)
        else:
            yield self._model.generate(chunk, **options)
