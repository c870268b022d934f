"""Telling one choice's text to the Answer: as content alone, or as reasoning, content and calls."""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from workers.answer import Answer
from workers.engines.llm.calls import CLOSE, Call, Form, Growing, call_id
from workers.engines.llm.parts import (
    ASIDE,
    CALL,
    CONTENT,
    REASONING,
    ContentText,
    ReasoningText,
    Segment,
    Splitter,
)
from workers.engines.llm.pieces import Pieces
from workers.engines.llm.said import Scored

Scores = Sequence[tuple[int, Scored]]  # tokens, with what was scored of them


class Teller(Protocol):
    """`tell` in order what tokens say, each text with its tokens; then `end`."""

    def tell(self, text: str, tokens: int, scores: Scores = ()) -> None: ...

    def end(self, finish_reason: str) -> None: ...


class PlainTeller:
    """Every text is content."""

    def __init__(self, answer: Answer, choice: int, pieces: Pieces) -> None:
        self._answer, self._choice, self._pieces = answer, choice, pieces

    def tell(self, text: str, tokens: int, scores: Scores = ()) -> None:
        logprobs = [self._pieces.scored(*each) for each in scores]
        self._answer.add(text, tokens, choice=self._choice, logprobs=logprobs)

    def end(self, finish_reason: str) -> None:
        self._answer.end(finish_reason, self._choice)


class Calling(NamedTuple):
    """How the calls of a job are told; `finish_reason` is that of an answer with calls."""

    form: Form
    job_id: str
    several: bool
    finish_reason: str


class Block(NamedTuple):
    """A text from `marker` on that may be calls. `state` is what it came amid; `growing` reads it where a
    grammar guides it, which is not amid reasoning."""

    state: str
    marker: str
    at: int
    text: list[str]
    growing: Growing | None


class PartsTeller:
    """Parts the text at its markers. Wants one token at a time.

    Calls that a grammar guides are told as they grow, others when they are whole. A block that turns out
    to be no call is told as what it came amid, with its markers. Log-probabilities are those of content.
    """

    def __init__(
        self, answer: Answer, choice: int, pieces: Pieces, splitter: Splitter, calling: Calling | None
    ) -> None:
        self._answer, self._choice, self._splitter, self._calling = answer, choice, splitter, calling
        self._content, self._reasoning = ContentText(), ReasoningText()
        self._placed = Placed(pieces)
        self._untold = 0  # tokens
        self._block: Block | None = None
        self._ids: list[str] = []

    def tell(self, text: str, tokens: int, scores: Scores = ()) -> None:
        reasons = self._splitter.state == REASONING
        self._placed.place(len(text), scores)
        self._untold = tokens
        self._split(text)
        if self._untold:
            tell = self._answer.think if reasons or self._splitter.state == REASONING else self._answer.add
            tell("", self._tokens(), choice=self._choice)
        if self._splitter.state == REASONING:
            self._placed.clear()

    def end(self, finish_reason: str) -> None:
        self._part(self._splitter.end())
        if self._block:
            self._close(self._block, "", cut=finish_reason == "length")
        self._add(*self._content.end())
        called = finish_reason == "stop" and self._ids and self._calling
        self._answer.end(self._calling.finish_reason if called else finish_reason, self._choice)

    # --- parts

    def _split(self, text: str) -> None:
        for segment in self._splitter.split(text):
            self._part(segment)

    def _part(self, segment: Segment) -> None:
        if self._block:
            self._read_block(self._block, segment)
        elif segment.state == CONTENT:
            self._say(segment.text, segment.at)
        elif segment.state == REASONING:
            self._think(segment.text)
        if segment.following in (CALL, ASIDE):
            self._open(segment)
        elif segment.following == REASONING:
            self._content.part()
        elif segment.following == CONTENT and segment.state in (REASONING, ASIDE):
            self._reasoning.part()
            self._content.part()

    def _say(self, text: str, at: int) -> None:
        self._add(*self._content.take(text, at))

    def _add(self, text: str, at: int) -> None:
        if text:
            logprobs = self._placed.take(at, at + len(text))
            self._answer.add(text, self._tokens(), choice=self._choice, logprobs=logprobs)

    def _think(self, text: str) -> None:
        if text := self._reasoning.take(text):
            self._answer.think(text, self._tokens(), choice=self._choice)

    def _tokens(self) -> int:
        """Those that no text was told with yet."""
        tokens, self._untold = self._untold, 0
        return tokens

    # --- blocks

    def _open(self, segment: Segment) -> None:
        form, aside = self._calling.form, segment.following == ASIDE
        growing = Growing(form.names) if form.guided and not aside else None
        at = segment.at + len(segment.text)
        self._block = Block(REASONING if aside else CONTENT, segment.marker, at, [], growing)

    def _read_block(self, block: Block, segment: Segment) -> None:
        if block.growing:
            self._grow(block, block.growing, segment.text)
            return
        block.text.append(segment.text)
        if segment.marker:
            self._close(block, segment.marker)

    def _close(self, block: Block, marker: str, cut: bool = False) -> None:
        """`marker` is "" at the end of the answer; one that ends the reasoning around it ends no call. Of a
        block that was `cut` off, some parsers would make a call that nobody meant. A guided one is no text
        either."""
        self._block = None
        if block.growing and (block.growing.name or cut):
            return
        text = block.growing.held if block.growing else "".join(block.text)
        form = self._calling.form
        ends = marker in ("", form.end)
        if calls := form.calls(text) if ends and not (cut and form.end) else None:
            self._call(calls)
        elif block.state == REASONING:
            self._think(block.marker + text + (marker if ends else ""))
        else:
            self._say(block.marker + text + marker, block.at)

    def _grow(self, block: Block, growing: Growing, text: str) -> None:
        begun = growing.name is not None
        arguments = growing.feed(text)
        if growing.name and not begun:
            self._begin(Call(growing.name, ""))
        if arguments:
            function = {"arguments": arguments}
            self._tell_call({"index": len(self._ids) - 1, "function": function})
        if not growing.closed:
            return
        self._close(block, CLOSE)
        if growing.name:
            self._called()
        self._splitter.go_back(len(growing.rest), block.state)
        self._split(growing.rest)

    # --- calls

    def _call(self, calls: list[Call]) -> None:
        for call in calls if self._calling.several else calls[:1]:
            self._begin(call)
        self._called()

    def _begin(self, call: Call) -> None:
        index = len(self._ids)
        own = call.id if call.id not in self._ids else None
        self._ids.append(own or call_id(self._calling.job_id, self._choice, index))
        function = {"name": call.name, "arguments": call.arguments}
        self._tell_call({"index": index, "id": self._ids[-1], "type": "function", "function": function})

    def _tell_call(self, delta: dict[str, Any]) -> None:
        self._answer.call([delta], self._tokens(), choice=self._choice)

    def _called(self) -> None:
        self._content.part()
        if not self._calling.several:
            self._answer.call([], self._tokens(), choice=self._choice)
            self._answer.end(self._calling.finish_reason, self._choice)


class Placed:
    """Which tokens' scores belong to which characters of a text."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._at = 0
        self._waiting: deque[tuple[int, int, int, Scored]] = deque()  # from and to which character

    def place(self, characters: int, scores: Scores) -> None:
        self._waiting += [(self._at, self._at + characters, *each) for each in scores]
        self._at += characters

    def take(self, start: int, end: int) -> list[dict[str, Any]]:
        """The log-probabilities of a text; what came before it is given up."""
        taken = []
        while self._waiting and self._waiting[0][0] < end:
            begins, ends, *scored = self._waiting.popleft()
            if ends > start or begins >= start:  # one may be a part of a character, and no text
                taken.append(self._pieces.scored(*scored))
        return taken

    def clear(self) -> None:
        self._waiting.clear()
