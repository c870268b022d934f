"""When a text looks wrong and what is tried then: rising temperatures, as OpenAI's Whisper does."""

import math
from collections.abc import Sequence

from mlx_audio.stt.models.whisper.decoding import compression_ratio

LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # temperatures, the next one when a text looks wrong
TOO_REPETITIVE = 2.4  # zlib's compression ratio
REPEATS = 4  # times that an n-gram stands at the end of the output, at least, if it is a loop
LOOPED = 48  # tokens of a loop, at least: laughter and countdowns are shorter
LONGEST = 64  # tokens of the n-gram


def ladder(temperature: float | None) -> tuple[float, ...]:
    """The temperatures to try. One that is asked for is the first, as in OpenAI's Whisper."""
    if not temperature:
        return LADDER
    rungs = math.floor((1.0 - temperature) / 0.2 + 1e-6) + 1
    return tuple(temperature + 0.2 * rung for rung in range(max(rungs, 1)))


def loop_begin(tokens: Sequence[int]) -> int | None:
    """Where the n-gram that the output ends with begins to repeat itself, behind its first occurrence.

    None if the output does not end in a loop.
    """
    for period in range(1, min(LONGEST, len(tokens) // REPEATS) + 1):
        span = max(LOOPED, period * REPEATS)
        if len(tokens) < span or tokens[-1] != tokens[-1 - period]:
            continue
        if tokens[-span:-period] == tokens[period - span :]:
            return _first_repeat(tokens, period)
    return None


def _first_repeat(tokens: Sequence[int], period: int) -> int:
    at = len(tokens) - 1
    while at >= period and tokens[at] == tokens[at - period]:
        at -= 1
    return at + 1


def too_repetitive(text: str) -> bool:
    return compression_ratio(text) > TOO_REPETITIVE
