"""What the engine needs of a model that hears: chunks of audio in, what is said in them out."""

from collections.abc import Hashable
from typing import Literal, Protocol

import msgspec
import numpy as np

from shared.transcript import Segment, TokenLogprob

Key = Hashable


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks of its chunks.

    `language` is an ISO 639 code, None leaves it to the model; `times` asks for segments that can be
    subtitles, `words` for the times of words, `logprobs` for those of tokens; what is `urgent` goes first.
    """

    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    times: bool = False
    words: bool = False
    logprobs: bool = False
    urgent: bool = False


class Hearing(msgspec.Struct, frozen=True):
    """What was heard in one chunk. Times are seconds from the chunk's beginning."""

    text: str
    language: str | None = None
    segments: list[Segment] = []
    logprobs: list[TokenLogprob] | None = None


class Recognizer(Protocol):
    """A loaded model that hears several chunks at once, whosever they are. All but `check` belong to
    the engine thread."""

    rows: int  # how many chunks it hears at once; a few more do no harm
    longest: float  # seconds of a chunk at most

    def check(self, asked: Asked) -> None:
        """Any thread. Raises BadRequest for what the model cannot honour."""

    def add(self, key: Key, samples: np.ndarray, asked: Asked) -> None:
        """Begin with a chunk; `samples` [n] are 16 kHz mono float32, up to `longest` seconds."""

    def step(self) -> list[tuple[Key, Hearing | Exception]]:
        """Advance every chunk a little; those that are done, each with what was heard or what went
        wrong with it alone."""

    def abort(self, key: Key) -> None:
        """Forget a chunk, running or not known (any more)."""
