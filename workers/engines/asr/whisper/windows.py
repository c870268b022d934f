"""What a decoded window means: its segments, how far to go on, and whether to try again.

After `mlx_audio.stt.models.whisper.Model.generate`, which is OpenAI's whisper/transcribe.py.
"""

import math

import msgspec
from mlx_audio.stt.models.whisper.decoding import compression_ratio

from workers.engines.asr.fallback import TOO_REPETITIVE

TOO_UNSURE = -1.0  # average log-probability
SILENT = 0.6  # probability of no speech
TOO_HOT = 0.5  # a text sampled above this temperature is no prompt for the next window


class Span(msgspec.Struct):
    """Tokens `first` to `last` of a window, between two timestamps in units of 20 ms from its start."""

    start: int
    end: int
    first: int
    last: int


class Quality(msgspec.Struct, frozen=True):
    """How a window was decoded. `ratio` is its text's compression ratio."""

    temperature: float
    avg_logprob: float
    no_speech_prob: float
    ratio: float

    @classmethod
    def of(cls, text: str, temperature: float, avg_logprob: float, no_speech_prob: float) -> "Quality":
        return cls(temperature, avg_logprob, no_speech_prob, compression_ratio(text))

    @property
    def silent(self) -> bool:
        return self.no_speech_prob > SILENT and not self.avg_logprob > TOO_UNSURE

    @property
    def looks_wrong(self) -> bool:
        if self.no_speech_prob > SILENT and self.avg_logprob < TOO_UNSURE:
            return False
        return self.ratio > TOO_REPETITIVE or self.avg_logprob < TOO_UNSURE


def ends_in_silence(tokens: list[int], begin: int) -> bool:
    """One timestamp at the end says that nothing is said after it; `begin` is the one of 0.00 s."""
    return [token >= begin for token in tokens[-2:]] == [False, True]


def cut(tokens: list[int], size: int, begin: int, stride: int) -> tuple[list[Span], int]:
    """Split a window's tokens at pairs of timestamps. Returns the spans and the frames done.

    `begin` is the timestamp token of 0.00 s; a timestamp is `stride` frames. What follows the last
    pair is unfinished, and heard again in the next window; a window that ends with one timestamp has
    silence after it.
    """
    is_time = [token >= begin for token in tokens]
    cuts = [at for at in range(1, len(tokens)) if is_time[at - 1] and is_time[at]]
    if not cuts:
        last = next((token - begin for token in reversed(tokens) if token >= begin), 0)
        return [Span(0, last or math.ceil(size / stride), 0, len(tokens))], size
    whole = ends_in_silence(tokens, begin)
    edges = [0, *cuts, len(tokens)] if whole else [0, *cuts]
    pairs = zip(edges[:-1], edges[1:], strict=True)
    spans = [Span(tokens[a] - begin, tokens[b - 1] - begin, a, b) for a, b in pairs]
    advance = size if whole else (tokens[edges[-1] - 1] - begin) * stride
    return spans, advance if advance > 0 else size
