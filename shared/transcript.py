"""What is heard in a recording, passage by passage, as it travels in the events of a job.

A recording is cut into chunks, which are heard side by side; each becomes a `Passage`. Its event,
`Delta(text, progress, data=of(passage))`, is a checkpoint: a job whose worker has died goes on without
the passages that its stream already has. Passages may come in any order; the `text` of the deltas is
in order all the same, and their sum is the text of the whole.
"""

from collections.abc import Iterable

import msgspec

from shared.events import Delta

UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0xA4CF), (0xF900, 0xFAFF),
            (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))  # Thai, Lao, Burmese, Khmer, Chinese, Japanese

UNLIKELY = -9999.0  # OpenAI's logprob of what is next to impossible


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """`start` and `end` are seconds from the beginning of the recording."""

    word: str
    start: float
    end: float
    probability: float | None = None


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of the text as OpenAI's `include[]=logprobs` gives it; `bytes` are its UTF-8."""

    token: str
    bytes: list[int]
    logprob: float

    @classmethod
    def of(cls, token: str, raw: bytes, logprob: float) -> "TokenLogprob":
        """JSON has no infinity, nor what is no number: they count as UNLIKELY."""
        return cls(token, list(raw), max(UNLIKELY, logprob))


class Segment(msgspec.Struct, frozen=True, omit_defaults=True):
    """A sentence or so. `start` and `end` are seconds from the beginning of the recording; None stands
    for what the model does not give."""

    start: float
    end: float
    text: str
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float | None = None
    compression_ratio: float | None = None
    no_speech_prob: float | None = None
    words: list[Word] | None = None


class Passage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was heard in chunk number `index`, from `start` to `end` seconds; perhaps nothing.

    `language` is an ISO 639 code. `text` is without white space around it.
    """

    index: int
    start: float
    end: float
    text: str
    language: str | None = None
    segments: list[Segment] = []
    logprobs: list[TokenLogprob] | None = None


class Passages:
    """The passages of one recording, put in order as they come."""

    def __init__(self) -> None:
        self.text = ""  # of the first `count` passages
        self.count = 0
        self.end = 0.0  # seconds, of those
        self._early: dict[int, Passage] = {}

    def __contains__(self, index: int) -> bool:
        return index < self.count or index in self._early

    def add(self, passage: Passage) -> tuple[str, list[Passage]]:
        """The text and the passages that are now next in order: none while an earlier one is missing.

        One that is there already counts for nothing.
        """
        if passage.index not in self:
            self._early[passage.index] = passage
        ready = []
        while (following := self._early.pop(self.count, None)) is not None:
            ready.append(following)
            self.count += 1
        text = ""
        for each in ready:
            text += spaced(self.text + text, each.text)
            self.end = each.end
        self.text += text
        return text, ready

    @property
    def seconds(self) -> float:
        """How much of the recording is done, what came early included."""
        return self.end + sum(passage.end - passage.start for passage in self._early.values())


def of(passage: Passage) -> dict:
    """The `data` of a passage's Delta."""
    return {"passage": msgspec.to_builtins(passage)}


def passages(deltas: Iterable[Delta]) -> list[Passage]:
    """Every passage of a job's deltas, in the order of the recording."""
    found = {passage.index: passage for passage in map(passage_of, deltas) if passage}
    return [found[index] for index in sorted(found)]


def passage_of(delta: Delta) -> Passage | None:
    data = (delta.data or {}).get("passage")
    return msgspec.convert(data, Passage) if data is not None else None


def spaced(before: str, text: str) -> str:
    """`text` as it follows `before`: behind a space, but not in scripts that have none."""
    if not before or not text or before[-1].isspace() or (_unspaced(before[-1]) and _unspaced(text[0])):
        return text
    return f" {text}"


def _unspaced(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in UNSPACED)
