"""Whisper as mlx-audio's `generate` hears one chunk, for many chunks at once.

Each chunk goes window by window, each conditioned on the chunk's text before and decoded at rising
temperatures until it looks right. Windows of all chunks share the decoder's batch.
"""

import time
import zlib
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
from mlx_audio.stt.models.whisper.audio import (
    HOP_LENGTH,
    N_FRAMES,
    N_SAMPLES,
    SAMPLE_RATE,
    log_mel_spectrogram,
    pad_or_trim,
)
from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES

from shared.transcript import Segment, TokenLogprob, Word
from workers import memory
from workers.engines.asr.fallback import ladder
from workers.engines.asr.languages import cannot_translate, not_spoken
from workers.engines.asr.recognizer import Asked, Hearing, Key
from workers.engines.asr.whisper.decoder import Decoded, Decoder, Window
from workers.engines.asr.whisper.encoder import encode
from workers.engines.asr.whisper.windows import TOO_HOT, Quality, Span, cut, ends_in_silence
from workers.engines.asr.whisper.words import align

FRAME = HOP_LENGTH / SAMPLE_RATE  # seconds
LAYERS = 0.1  # seconds of a step after which no further layer is begun
PATIENCE = 100  # steps between two windows that are not urgent, while urgent chunks are heard


class Listening(msgspec.Struct, eq=False):
    """A chunk that is being heard."""

    key: Key
    asked: Asked
    samples: np.ndarray
    rungs: tuple[float, ...]
    seed: int
    mel: mx.array | None = None  # [frames, bands], of which the last 30 s are silence
    frames: int = 0  # before those
    language: str = ""
    tokenizer: Any = None
    features: mx.array | None = None  # of the window
    prompt: list[int] = []
    tokens: list[int] = []  # of the prompt and all windows
    fresh: int = 0  # the tokens before are no prompt any more
    seek: int = 0  # the window's first frame
    rung: int = 0
    spoken_until: float = 0.0  # seconds
    segments: list[Segment] = []
    logprobs: list[TokenLogprob] = []

    @property
    def size(self) -> int:
        """Frames of the window that are not padding."""
        return min(N_FRAMES, self.frames - self.seek)


class Encoding(msgspec.Struct, eq=False):
    """Windows that are being encoded, layer by layer."""

    chunks: list[Listening]
    layers: Iterator[mx.array]
    features: mx.array | None = None  # what the last layer made of them

    def go_on(self) -> bool:
        """Evaluate the next layer. False if there is none."""
        layer = next(self.layers, None)
        if layer is None:
            return False
        mx.eval(layer)
        self.features = layer
        return True


class WhisperRecognizer:
    """A loaded mlx-audio Whisper that hears up to `rows` chunks at once."""

    longest = N_SAMPLES / SAMPLE_RATE

    def __init__(self, model: Any, rows: int) -> None:
        self.rows = rows
        self._model = model
        self._languages = tuple(LANGUAGES)[: model.num_languages] if model.is_multilingual else ("en",)
        self._tokenizers: dict[tuple[str, str], Any] = {}
        self._decoder = Decoder(model, self._tokenizer(self._languages[0], "transcribe"))
        self._running: dict[Key, Listening] = {}
        self._unheard: list[Listening] = []  # whose next window has not been encoded
        self._over: list[tuple[Key, Hearing | Exception]] = []
        self._steps = 0
        self._yielded = 0  # the last step in which a window was encoded that was not urgent
        self._at_once = rows if memory.compact() else 1  # a CPU takes a second for each
        self._encoding: Encoding | None = None

    def check(self, asked: Asked) -> None:
        if asked.task == "translate" and not self._model.is_multilingual:
            raise cannot_translate()
        if asked.language and asked.language not in self._languages:
            spoken = "'en'" if len(self._languages) == 1 else f"one of {', '.join(self._languages)}"
            raise not_spoken(asked.language, spoken)

    def add(self, key: Key, samples: np.ndarray, asked: Asked) -> None:
        seed = zlib.crc32(samples.tobytes())  # the same audio gives the same text
        chunk = Listening(key, asked, samples, ladder(asked.temperature), seed)
        self._running[key] = chunk
        self._unheard.append(chunk)

    def step(self) -> list[tuple[Key, Hearing | Exception]]:
        if not self._encode():
            return []  # who waits for the end of a step is not to wait for a whole window
        self._steps += 1
        for key, decoded in self._decoder.step():
            self._guarded(self._running[key], lambda chunk, decoded=decoded: self._after(chunk, decoded))
        over, self._over = self._over, []
        return over

    def abort(self, key: Key) -> None:
        if chunk := self._running.pop(key, None):
            self._unheard = [each for each in self._unheard if each is not chunk]
            if self._encoding and not any(map(self._is_running, self._encoding.chunks)):
                self._encoding = None
            self._decoder.abort(key)

    def _guarded(self, chunk: Listening, act: Any) -> None:
        """Whatever goes wrong in one chunk costs that chunk alone."""
        try:
            act(chunk)
        except Exception as error:
            self.abort(chunk.key)
            self._over.append((chunk.key, error))

    def _is_running(self, chunk: Listening) -> bool:
        return self._running.get(chunk.key) is chunk

    def _encode(self) -> bool:
        """Go on with the windows that are due, in one batch. False if this is not over."""
        until = time.monotonic() + LAYERS
        encoding = self._encoding or self._begin()
        while encoding and encoding.go_on():
            if time.monotonic() > until:
                self._encoding = encoding
                return False
        self._encoding = None
        if encoding:
            for chunk, own in zip(encoding.chunks, encoding.features, strict=True):
                if self._is_running(chunk):
                    chunk.features = own
                    self._guarded(chunk, self._open)
        return True

    def _begin(self) -> Encoding | None:
        for chunk in self._due():
            self._guarded(chunk, self._listen)
        chunks = self._due()
        if not chunks:
            return None
        self._unheard = [chunk for chunk in self._unheard if chunk not in chunks]
        if not chunks[0].asked.urgent:
            self._yielded = self._steps
        windows = [
            pad_or_trim(each.mel[each.seek : each.seek + each.size], N_FRAMES, axis=-2) for each in chunks
        ]
        mels = mx.stack(windows).astype(self._model.dtype)
        return Encoding(chunks, encode(self._model.encoder, mels))

    def _due(self) -> list[Listening]:
        """Which windows are next: those of urgent chunks, and while one of these is heard, of others one
        now and then."""
        due = [chunk for chunk in self._unheard if chunk.asked.urgent]
        if due:
            return due[: self._at_once]
        if not any(chunk.asked.urgent for chunk in self._running.values()):
            return self._unheard[: self._at_once]
        return self._unheard[: self._steps - self._yielded > PATIENCE]

    def _listen(self, chunk: Listening) -> None:
        """The chunk's spectrogram, once."""
        if chunk.mel is None:
            samples, bands = mx.array(chunk.samples), self._model.dims.n_mels
            chunk.mel = log_mel_spectrogram(samples, n_mels=bands, padding=N_SAMPLES)
            chunk.frames = chunk.mel.shape[-2] - N_FRAMES

    def _open(self, chunk: Listening) -> None:
        """Begin with a window; the first one says what language it is."""
        if chunk.tokenizer is None:
            asked = chunk.asked
            chunk.language = asked.language or self._detect(chunk.features)
            chunk.tokenizer = self._tokenizer(chunk.language, asked.task)
            chunk.prompt = chunk.tokenizer.encode(" " + asked.prompt.strip()) if asked.prompt else []
            chunk.tokens = list(chunk.prompt)
        chunk.rung = 0
        self._decode(chunk)

    def _decode(self, chunk: Listening) -> None:
        window = Window(
            chunk.key,
            chunk.features,
            chunk.tokenizer.sot_sequence,
            chunk.tokens[chunk.fresh :],
            chunk.rungs[chunk.rung],
            seed=chunk.seed + chunk.seek + chunk.rung,
        )
        self._decoder.add(window)

    def _after(self, chunk: Listening, decoded: Decoded) -> None:
        """Try a window again, or take it and go on to the next."""
        text = chunk.tokenizer.decode(decoded.tokens).strip()
        temperature = chunk.rungs[chunk.rung]
        quality = Quality.of(text, temperature, decoded.avg_logprob, decoded.no_speech_prob)
        if quality.looks_wrong and chunk.rung + 1 < len(chunk.rungs):
            chunk.rung += 1
            return self._decode(chunk)
        chunk.seek += chunk.size if quality.silent else self._take(chunk, decoded, quality)
        if quality.temperature > TOO_HOT:
            chunk.fresh = len(chunk.tokens)
        if chunk.seek < chunk.frames:
            self._unheard.insert(0, chunk)  # what has begun is to end: readers wait for text in order
        else:
            self._finish(chunk)

    def _take(self, chunk: Listening, decoded: Decoded, quality: Quality) -> int:
        """Keep a window's segments. Returns by how many frames to go on."""
        begin = chunk.tokenizer.timestamp_begin
        stride = N_FRAMES // self._model.dims.n_audio_ctx
        spans, advance = cut(decoded.tokens, chunk.size, begin, stride)
        segments = [self._segment(chunk, span, decoded, stride) for span in spans]
        if chunk.asked.words:
            align(self._model, chunk.tokenizer, chunk.features, segments, chunk.size, chunk.spoken_until)
            until = next((each["words"][-1]["end"] for each in reversed(segments) if each["words"]), None)
            if until is None:  # as mlx-audio's _get_end
                until = segments[-1]["end"] if segments else None
            if until is not None:
                if not ends_in_silence(decoded.tokens, begin) and until > chunk.seek * FRAME:
                    advance = max(1, round(until / FRAME) - chunk.seek)  # or it would be heard for ever
                chunk.spoken_until = until
        for span, segment in zip(spans, segments, strict=True):
            self._keep(chunk, span, segment, decoded, quality)
        return advance

    def _segment(self, chunk: Listening, span: Span, decoded: Decoded, stride: int) -> dict:
        """In the form that mlx-audio's alignment changes in place."""
        tokens = decoded.tokens[span.first : span.last]
        text = chunk.tokenizer.decode([token for token in tokens if token < chunk.tokenizer.eot])
        start, end = (chunk.seek * FRAME + at * stride * FRAME for at in (span.start, span.end))
        return {"seek": chunk.seek, "start": start, "end": end, "tokens": tokens, "text": text, "words": []}

    def _keep(
        self, chunk: Listening, span: Span, segment: dict, decoded: Decoded, quality: Quality
    ) -> None:
        if segment["start"] == segment["end"] or not segment["text"].strip():
            return
        chunk.tokens += segment["tokens"]
        words = [Word(**word) for word in segment["words"]] if chunk.asked.words else None
        chunk.segments.append(
            Segment(
                round(segment["start"], 3),
                round(segment["end"], 3),
                segment["text"],
                segment["tokens"],
                quality.temperature,
                _finite(quality.avg_logprob),
                quality.ratio,
                _finite(quality.no_speech_prob),
                words,
            )
        )
        if chunk.asked.logprobs:
            pairs = zip(segment["tokens"], decoded.logprobs[span.first : span.last], strict=True)
            chunk.logprobs += [
                _logprob(chunk.tokenizer, token, logprob)
                for token, logprob in pairs
                if token < chunk.tokenizer.eot
            ]

    def _finish(self, chunk: Listening) -> None:
        del self._running[chunk.key]
        text = chunk.tokenizer.decode(chunk.tokens[len(chunk.prompt) :]).strip()
        logprobs = chunk.logprobs if chunk.asked.logprobs else None
        self._over.append((chunk.key, Hearing(text, chunk.language, chunk.segments, logprobs)))

    def _detect(self, features: mx.array) -> str:
        if not self._model.is_multilingual:
            return "en"
        _, probabilities = self._model.detect_language(features)
        return max(probabilities, key=probabilities.get)

    def _tokenizer(self, language: str, task: str) -> Any:
        """One for each language and task: making it reads a file."""
        pair = language, task
        if pair not in self._tokenizers:
            self._tokenizers[pair] = self._model.get_tokenizer(language=language, task=task)
        return self._tokenizers[pair]


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _logprob(tokenizer: Any, token: int, logprob: float) -> TokenLogprob:
    text = tokenizer.decode([token])
    return TokenLogprob.of(text, text.encode(), logprob)
