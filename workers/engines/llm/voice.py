"""From one job's tokens to its text and events."""

from collections.abc import Iterable
from typing import NamedTuple

from mlx_lm.tokenizer_utils import StreamingDetokenizer

from shared.events import Event
from workers.answer import Answer
from workers.engine import Output


class Token(NamedTuple):
    """What a step says of a row. The token that ended it with "stop" is no part of the text."""

    id: int
    finish_reason: str | None


class Voice:
    """Renders one answer: text is said once its UTF-8 is whole and it cannot begin a stop string."""

    def __init__(self, detokenizer: StreamingDetokenizer, prompt_tokens: int, stops: list[str]) -> None:
        self._detokenizer = detokenizer
        self._answer = Answer(prompt_tokens, stops)
        self._each = bool(stops)  # a stop string must know its token; without any, many go in one

    def render(self, outputs: Iterable[Output]) -> list[Event]:
        pending = 0
        for output in outputs:
            token: Token = output.payload
            if token.finish_reason != "stop":
                self._detokenizer.add_token(token.id)
                pending += 1
            if self._each or output.last:
                self._take(pending)
                pending = 0
            if output.last:
                self._end(token.finish_reason)
        if pending:
            self._take(pending)
        return self._answer.events()

    def _take(self, tokens: int) -> None:
        self._answer.add(self._detokenizer.last_segment, tokens)

    def _end(self, finish_reason: str) -> None:
        self._detokenizer.finalize()
        self._take(0)
        self._answer.end(finish_reason)
