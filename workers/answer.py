"""What every chat engine needs between its tokens and the job's events; no model in it."""

from collections.abc import Iterable

from shared.errors import BadRequest
from shared.events import Delta, Done, Event


def token_budget(prompt_tokens: int, asked: int | None, context_length: int) -> int:
    """How many tokens may be generated: what was asked, at most what the prompt leaves.

    Raises BadRequest (context_length_exceeded) for a prompt that leaves no room for an answer.
    """
    if prompt_tokens >= context_length:
        raise BadRequest(
            f"This model's context length is {context_length} tokens, but your messages have "
            f"{prompt_tokens} tokens. Shorten the messages: the answer needs room too.",
            param="messages",
            code="context_length_exceeded",
        )
    left = context_length - prompt_tokens
    return min(asked or left, left)


class StopStrings:
    """Cuts a text that arrives in pieces before the first stop string, wherever the pieces break.

    Of several stop strings the one that is complete first counts; of those that are complete at
    the same character, the longest.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The text that is now certain to come before any stop string."""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)[1]]
        cut = len(text) - self._pending(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back, when no more can come."""
        held, self._held = self._held, ""
        return held

    def _pending(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(s.startswith(text[-size:]) for s in self._stops)), 0)


class Answer:
    """The answer of one chat job as it grows.

    `add` what each token says and `end` it; `events` hands out what can be said since the last time:
    at most one Delta, then Done once the answer has ended, which a stop string may do by itself.
    """

    def __init__(self, prompt_tokens: int, stops: Iterable[str] = ()) -> None:
        self._prompt_tokens = prompt_tokens
        self._stops = StopStrings(stops)
        self._text = ""
        self._tokens = 0
        self._said = (0, 0)  # characters and tokens of the deltas so far
        self._finish_reason: str | None = None
        self._closed = False

    @property
    def ended(self) -> bool:
        return self._finish_reason is not None

    def add(self, text: str, tokens: int = 1) -> None:
        """What came after the end is ignored."""
        if self.ended:
            return
        self._tokens += tokens
        self._text += self._stops.push(text)
        if self._stops.hit:
            self._finish_reason = "stop"

    def end(self, finish_reason: str) -> None:
        if not self.ended:
            self._text += self._stops.flush()
            self._finish_reason = finish_reason

    def events(self) -> list[Event]:
        if self._closed:
            return []
        said: list[Event] = []
        characters, tokens = self._said
        if len(self._text) > characters:
            said.append(Delta(self._text[characters:], self._tokens - tokens))
            self._said = len(self._text), self._tokens
        if self.ended:
            self._closed = True
            said.append(self._done())
        return said

    def _done(self) -> Done:
        usage = {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._tokens,
            "total_tokens": self._prompt_tokens + self._tokens,
        }
        return Done({"text": self._text, "finish_reason": self._finish_reason}, usage)
