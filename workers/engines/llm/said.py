"""What a step of the engine says of a job: the payloads of its Outputs."""

from typing import NamedTuple


class Scored(NamedTuple):
    """A token's log-probability (natural), and the likeliest tokens in its place, best first.

    Of the model's own distribution: before bias, penalties, temperature and masks. The first token of
    a prompt has none.
    """

    logprob: float | None
    top: list[tuple[int, float]]


class Token(NamedTuple):
    """The next token of a choice. One that ended it with "stop" is no part of the text, though of the
    log-probabilities of a completion; an end without a token has None."""

    id: int | None
    finish_reason: str | None = None
    choice: int = 0
    scored: Scored | None = None


class PromptScores(NamedTuple):
    """Every token of a prompt, before the first token of its answer."""

    prompt: int
    scored: list[Scored]


class Cached(NamedTuple):
    """How many tokens of a prompt did not have to be computed."""

    tokens: int
