"""What every engine that generates text needs between its tokens and the job's events; no model in it."""

from collections.abc import Iterable, Sequence
from typing import Any

from shared.errors import BadRequest
from shared.events import Done, Event
from workers.choice import Choice

Json = dict[str, Any]


def token_budget(prompt_tokens: int, asked: int | None, context_length: int, param: str = "messages") -> int:
    """How many tokens may be generated: what was asked, at most what the prompt leaves.

    `param` is where the prompt is, "messages" or "prompt". Raises BadRequest (context_length_exceeded)
    for a prompt that leaves no room for an answer, unless none was asked for.
    """
    left = context_length - prompt_tokens
    if left < 0 or (left == 0 and asked != 0):
        have = "prompt has" if param == "prompt" else "messages have"
        raise BadRequest(
            f"This model's context length is {context_length} tokens, but your {have} {prompt_tokens} "
            f"tokens. Shorten the {param}: the answer needs room too.",
            param=param,
            code="context_length_exceeded",
        )
    return left if asked is None else min(asked, left)


class Answer:
    """The answer of one job as it grows, all its choices.

    Say with `add`, `think` and `call` what the tokens are, and `end` every choice; `events` hands out
    what can be said since the last time: at most one Delta a choice, then Done when every choice has
    ended, which a stop string may do by itself. What comes for a choice after its end is ignored.

    `cached_tokens` may be set before the end; `reasoning_tokens` is None, and no part of the usage,
    where the engine does not count them. A job has log-probabilities for all its tokens or for none.
    """

    def __init__(self, prompt_tokens: int, stops: Iterable[str] = (), choices: int = 1) -> None:
        stops = tuple(stops)
        self.cached_tokens = 0
        self.reasoning_tokens: int | None = None
        self._prompt_tokens = prompt_tokens
        self._choices = [Choice(index, stops) for index in range(choices)]
        self._news: dict[int, Choice] = {}  # those that may have something to say
        self._open = choices
        self._closed = False

    def ended(self, choice: int = 0) -> bool:
        return self._choices[choice].finish_reason is not None

    def echo(self, text: str, *, choice: int = 0, logprobs: Sequence[Json] = ()) -> None:
        """The prompt before its answer: its tokens are not counted, and no stop string cuts it."""
        if growing := self._growing(choice):
            growing.echo(text, logprobs)

    def add(self, text: str, tokens: int = 1, *, choice: int = 0, logprobs: Sequence[Json] = ()) -> None:
        """Content. A stop string in it ends the choice.

        The log-probabilities of tokens without text wait for the text that completes them. Those of
        one call belong to the whole of its text: where there are stop strings, call for each token.
        """
        if growing := self._growing(choice):
            growing.add(text, tokens, logprobs)
            self._open -= growing.finish_reason is not None

    def think(self, text: str, tokens: int = 0, *, choice: int = 0, logprobs: Sequence[Json] = ()) -> None:
        """Reasoning; its tokens also count as `reasoning_tokens`."""
        if growing := self._growing(choice):
            growing.think(text, tokens, logprobs)
            self.reasoning_tokens = (self.reasoning_tokens or 0) + tokens

    def call(
        self, deltas: Sequence[Json], tokens: int = 0, *, choice: int = 0, logprobs: Sequence[Json] = ()
    ) -> None:
        """Tool calls, as OpenAI's `ChoiceDeltaToolCall`: the first of an `index` has id and name."""
        if growing := self._growing(choice):
            growing.call(deltas, tokens, logprobs)

    def end(self, finish_reason: str, choice: int = 0) -> None:
        if growing := self._growing(choice):
            growing.end(finish_reason)
            self._open -= 1

    def events(self) -> list[Event]:
        said: list[Event] = [delta for choice in self._news.values() if (delta := choice.take())]
        self._news.clear()
        if not self._open and not self._closed:
            self._closed = True
            said.append(self._done())
        return said

    def _growing(self, choice: int) -> Choice | None:
        growing = self._choices[choice]
        if growing.finish_reason is not None:
            return None
        self._news[choice] = growing
        return growing

    def _done(self) -> Done:
        tokens = sum(choice.said_tokens for choice in self._choices)
        usage: Json = {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return Done({"choices": [choice.result() for choice in self._choices]}, usage)
