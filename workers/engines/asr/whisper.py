"""Whisper, window by window: mlx-audio's `generate` as a loop that can be stopped and listened to.

The text is that of `mlx_audio.stt.models.whisper.Model.generate` with its defaults (30 s windows, each
conditioned on the text before, temperature fallback), after OpenAI's whisper/transcribe.py. Words'
timestamps are not part of it.
"""

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
from mlx_audio.stt.models.whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim
from mlx_audio.stt.models.whisper.decoding import DecodingOptions, DecodingResult
from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES

from workers.engines.asr.languages import not_spoken
from workers.engines.asr.recognizer import Asked, Piece

LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # temperatures, the next one when a text looks wrong
TOO_REPETITIVE = 2.4  # gzip compression ratio
TOO_UNSURE = -1.0  # average log-probability
SILENT = 0.6  # probability of no speech
TOO_HOT = 0.5  # a text sampled above this temperature is no prompt for the next window


class Segment(msgspec.Struct):
    """Tokens between two timestamps, in units of 20 ms from the window's start."""

    start: int
    end: int
    tokens: list[int]


class WhisperRecognizer:
    """A loaded mlx-audio Whisper."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._languages = tuple(LANGUAGES)[: model.num_languages] if model.is_multilingual else ("en",)

    def check(self, asked: Asked) -> None:
        if asked.language and asked.language not in self._languages:
            spoken = "'en'" if len(self._languages) == 1 else f"one of {', '.join(self._languages)}"
            raise not_spoken(asked.language, spoken)

    def run(self, audio: np.ndarray, asked: Asked) -> Iterator[Piece]:
        mel = log_mel_spectrogram(mx.array(audio), n_mels=self._model.dims.n_mels, padding=N_SAMPLES)
        frames = mel.shape[-2] - N_FRAMES
        language = asked.language or self._detect(mel)
        tokenizer = self._model.get_tokenizer(language=language)
        prompt = tokenizer.encode(" " + asked.prompt.strip()) if asked.prompt else []
        tokens, fresh, seek, said = list(prompt), 0, 0, ""
        while seek < frames:
            size = min(N_FRAMES, frames - seek)
            features = self._encode(mel[seek : seek + size])
            yield Piece(language=language)
            for attempt in self._attempts(features, asked.temperature, language, tokens[fresh:]):
                result = attempt
                yield Piece(language=language)
            segments, advance = self._segments(result, size, tokenizer.timestamp_begin)
            tokens += [token for segment in segments for token in self._kept(segment, tokenizer)]
            if result.temperature > TOO_HOT:
                fresh = len(tokens)
            seek += advance
            text = tokenizer.decode(tokens[len(prompt) :])
            yield Piece(text[len(said) :], min(seek / frames, 1.0), language)
            said = text

    def _detect(self, mel: mx.array) -> str:
        if not self._model.is_multilingual:
            return "en"
        window = pad_or_trim(mel, N_FRAMES, axis=-2).astype(self._model.dtype)
        _, probabilities = self._model.detect_language(window)
        return max(probabilities, key=probabilities.get)

    def _encode(self, mel: mx.array) -> mx.array:
        """Features [positions, width] of one window, which every temperature shares."""
        window = pad_or_trim(mel, N_FRAMES, axis=-2).astype(self._model.dtype)
        features = self._model.encoder(window[None])[0]
        mx.eval(features)
        return features

    def _attempts(
        self, features: mx.array, temperature: float | None, language: str, prompt: list[int]
    ) -> Iterator[DecodingResult]:
        """Decode at rising temperatures until the text looks right; the last one counts."""
        for rung in ladder(temperature):
            options = DecodingOptions(
                temperature=rung,
                language=language,
                prompt=prompt,
                fp16=self._model.dtype == mx.float16,
            )
            result = self._model.decode(features, options)
            yield result
            if not _looks_wrong(result):
                return

    def _segments(self, result: DecodingResult, size: int, begin: int) -> tuple[list[Segment], int]:
        """The segments of a window, and by how many of its `size` frames to go on."""
        if result.no_speech_prob > SILENT and not result.avg_logprob > TOO_UNSURE:
            return [], size
        return cut(result.tokens, size, begin, N_FRAMES // self._model.dims.n_audio_ctx)

    def _kept(self, segment: Segment, tokenizer: Any) -> list[int]:
        text = tokenizer.decode([token for token in segment.tokens if token < tokenizer.eot])
        return segment.tokens if segment.start != segment.end and text.strip() else []


def ladder(temperature: float | None) -> tuple[float, ...]:
    """The temperatures to try. One that is asked for is the first, as in OpenAI's Whisper."""
    if not temperature:
        return LADDER
    rungs = math.floor((1.0 - temperature) / 0.2 + 1e-6) + 1
    return tuple(temperature + 0.2 * rung for rung in range(rungs))


def cut(tokens: list[int], size: int, begin: int, stride: int) -> tuple[list[Segment], int]:
    """Split a window's tokens at pairs of timestamps. Returns the segments and the frames done.

    `begin` is the timestamp token of 0.00 s; a timestamp is `stride` frames. What follows the last
    pair is unfinished, and heard again in the next window; a window that ends with one timestamp has
    silence after it.
    """
    is_time = [token >= begin for token in tokens]
    cuts = [at for at in range(1, len(tokens)) if is_time[at - 1] and is_time[at]]
    if not cuts:
        last = next((token - begin for token in reversed(tokens) if token >= begin), 0)
        return [Segment(0, last or math.ceil(size / stride), tokens)], size
    whole = is_time[-2:] == [False, True]
    edges = [0, *cuts, len(tokens)] if whole else [0, *cuts]
    pieces = [tokens[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    segments = [Segment(piece[0] - begin, piece[-1] - begin, piece) for piece in pieces]
    advance = size if whole else (tokens[edges[-1] - 1] - begin) * stride
    return segments, advance if advance > 0 else size


def _looks_wrong(result: DecodingResult) -> bool:
    silent = result.no_speech_prob > SILENT and result.avg_logprob < TOO_UNSURE
    return not silent and (result.compression_ratio > TOO_REPETITIVE or result.avg_logprob < TOO_UNSURE)
