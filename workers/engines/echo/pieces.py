"""What one step of the echo engine says of a choice, and how sure it pretends to be."""

from itertools import chain, count, islice
from typing import Any, NamedTuple

from workers.answer import Answer

FILLERS = "the of and to in is it you that he was for on are as with his they at be this".split()
UNLIKELY = -10.0

Json = dict[str, Any]


class Word(NamedTuple):
    text: str

    def say(self, answer: Answer, choice: int, logprobs: list[Json]) -> None:
        answer.add(self.text, choice=choice, logprobs=logprobs)


class Thought(NamedTuple):
    text: str

    def say(self, answer: Answer, choice: int, logprobs: list[Json]) -> None:
        answer.think(self.text, 1, choice=choice, logprobs=logprobs)


class Called(NamedTuple):
    """A part of a tool call; `text` is what a model would have written."""

    text: str
    delta: Json

    def say(self, answer: Answer, choice: int, logprobs: list[Json]) -> None:
        answer.call([self.delta], 1, choice=choice, logprobs=logprobs)


Piece = Word | Thought | Called


def scored(text: str, top: int | None) -> list[Json]:
    """The log-probabilities of one token, `top` likely ones among them: it was certain, others were not."""
    if top is None:
        return []
    others = (f" {word}" for word in FILLERS if f" {word}" != text)
    likely = chain([(text, 0.0)], zip(others, count(UNLIKELY, -1.0), strict=False))
    return [_scored(text, 0.0) | {"top": [_scored(*each) for each in islice(likely, top)]}]


def scored_prompt(words: list[str], top: int | None) -> list[Json]:
    """Nothing comes before the first token of a prompt: it has no log-probability."""
    if top is None:
        return []
    first = _scored(words[0], None) | {"top": []}
    return [first, *(each for word in words[1:] for each in scored(word, top))]


def _scored(text: str, logprob: float | None) -> Json:
    return {"token": text, "bytes": list(text.encode()), "logprob": logprob}
