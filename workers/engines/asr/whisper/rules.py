"""Which tokens may follow: Whisper's timestamp rules on a whole batch, in MLX.

They are those of `mlx_audio.stt.models.whisper.decoding` (`SuppressBlank`, `SuppressTokens`,
`ApplyTimestampRules`), without looking at the tokens in Python: what has just been sampled need not be
known yet, so that a GPU goes on while the tokens before are read.
"""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_audio.stt.models.whisper.audio import CHUNK_LENGTH
from mlx_audio.stt.models.whisper.decoding import get_suppress_tokens

LATEST_START = 1.0  # seconds into the window at which its first timestamp may be


class Rules:
    """Logits are [rows, vocabulary], float32; what may not follow becomes minus infinity."""

    def __init__(self, tokenizer: Any, vocabulary: int, positions: int) -> None:
        self.timestamp_begin: int = tokenizer.timestamp_begin
        numbers = np.arange(vocabulary)
        self._suppressed = _minus_infinity(np.isin(numbers, get_suppress_tokens(tokenizer)))
        self._blank = _minus_infinity(np.isin(numbers, [*tokenizer.encode(" "), tokenizer.eot]))
        self._hint = _minus_infinity(numbers == tokenizer.no_timestamps)
        self._times = _minus_infinity(numbers >= self.timestamp_begin)
        self._not_times = _minus_infinity(numbers < self.timestamp_begin)
        self._text = _minus_infinity(numbers < tokenizer.eot)
        latest = self.timestamp_begin + round(LATEST_START / (CHUNK_LENGTH / positions))
        self._late = _minus_infinity(numbers > latest)

    def first(self, logits: mx.array) -> mx.array:
        """A transcript begins with a timestamp within its first second."""
        logits = logits + self._blank + self._suppressed
        return self._prefer_times(logits, self._hint + self._not_times + self._late)

    def following(self, logits: mx.array, last: mx.array, before: mx.array) -> mx.array:
        """`last` and `before` [rows] are the two tokens that came before; timestamps come in pairs."""
        logits = logits + self._suppressed
        was_time = (last >= self.timestamp_begin)[:, None]
        pair = was_time & (before >= self.timestamp_begin)[:, None]
        mask = self._hint + mx.where(pair, self._times, 0.0) + mx.where(was_time & ~pair, self._text, 0.0)
        return self._prefer_times(logits, mask)

    def _prefer_times(self, logits: mx.array, mask: mx.array) -> mx.array:
        """Where timestamps together are more likely than any other token, one of them follows."""
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        times = mx.logsumexp(logprobs[:, self.timestamp_begin :], axis=-1, keepdims=True)
        text = logprobs[:, : self.timestamp_begin].max(axis=-1, keepdims=True)
        return logits + mask + mx.where(times > text, self._not_times, 0.0)


def _minus_infinity(where: np.ndarray) -> mx.array:
    return mx.array(np.where(where, -np.inf, 0.0).astype(np.float32))
