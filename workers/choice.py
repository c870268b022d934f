"""One choice of an answer: what is not said yet, and all that was."""

from collections import deque
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from shared.events import Delta
from workers.stops import StopStrings

Json = dict[str, Any]


class Choice:
    """Grows until it has a `finish_reason`; `take` is what is new, `result` the whole for Done."""

    def __init__(self, index: int, stops: tuple[str, ...] = ()) -> None:
        self.finish_reason: str | None = None
        self.said_tokens = 0
        self._index = index
        self._stops = StopStrings(stops) if stops else None
        self._scores: Scores | None = None
        self._tokens, self._text, self._reasoning = 0, "", ""
        self._calls: list[Json] = []
        self._said: tuple[list[str], list[str], list[Json]] = [], [], []

    def echo(self, text: str, scored: Sequence[Json]) -> None:
        self._say(text, text, scored)

    def add(self, text: str, tokens: int, scored: Sequence[Json]) -> None:
        self._tokens += tokens
        if self._stops is None:
            self._say(text, text, scored)
            return
        self._say(text, self._stops.push(text), scored)
        if self._stops.hit:
            self.finish_reason = "stop"
            if self._scores:
                self._scores.cut()

    def think(self, text: str, tokens: int, scored: Sequence[Json]) -> None:
        self._flush(scored)
        self._tokens += tokens
        self._reasoning += text

    def call(self, deltas: Sequence[Json], tokens: int, scored: Sequence[Json]) -> None:
        self._flush(scored)
        self._tokens += tokens
        self._calls += deltas

    def end(self, finish_reason: str) -> None:
        self._flush()
        self.finish_reason = finish_reason

    def take(self) -> Delta | None:
        """Tokens without text wait for some, or for the end."""
        data = self._data()
        if not (self._text or data or (self._tokens and self.finish_reason)):
            return None
        if self._index:
            data["choice"] = self._index
        delta = Delta(self._text, self._tokens, data=data or None)
        self._keep()
        return delta

    def result(self) -> Json:
        texts, reasonings, calls = self._said
        said: Json = {"text": "".join(texts), "finish_reason": self.finish_reason}
        if reasonings:
            said["reasoning"] = "".join(reasonings)
        if calls:
            said["tool_calls"] = [_whole(call) for call in merged(calls)]
        return said

    def _say(self, text: str, certain: str, scored: Sequence[Json]) -> None:
        """`certain` is what may be said of `text` and of what was held back before."""
        self._text += certain
        if scored and self._scores is None:
            self._scores = Scores()
        if self._scores:
            self._scores.add(len(text), scored)
            self._scores.release(len(certain))

    def _flush(self, scored: Sequence[Json] = ()) -> None:
        """No stop string goes on behind what comes now; `scored` are its tokens."""
        held = self._stops.flush() if self._stops else ""
        self._say("", held, scored)
        if self._scores:
            self._scores.flush()

    def _data(self) -> Json:
        data: Json = {}
        if self._reasoning:
            data["reasoning"] = self._reasoning
        if self._calls:
            data["tool_calls"] = merged(self._calls)
        if self._scores and (scored := self._scores.take()):
            data["logprobs"] = scored
        return data

    def _keep(self) -> None:
        texts, reasonings, calls = self._said
        texts.append(self._text)
        if self._reasoning:
            reasonings.append(self._reasoning)
        calls += self._calls
        self.said_tokens += self._tokens
        self._tokens, self._text, self._reasoning, self._calls = 0, "", "", []


class Scores:
    """Which tokens' log-probabilities may be said: those whose text may.

    A token without text, such as half a character, belongs to the text that comes next.
    """

    def __init__(self) -> None:
        self._added = 0  # characters
        self._released = 0
        self._textless: list[Json] = []
        self._placed: deque[tuple[int, int, list[Json]]] = deque()  # from and to which character
        self._ready: list[Json] = []

    def add(self, characters: int, scored: Sequence[Json]) -> None:
        self._textless += scored
        if characters and self._textless:
            self._placed.append((self._added, self._added + characters, self._textless))
            self._textless = []
        self._added += characters

    def release(self, characters: int) -> None:
        self._released += characters
        while self._placed and self._placed[0][1] <= self._released:
            self._ready += self._placed.popleft()[2]

    def cut(self) -> None:
        """The text ends here. A token of which a part was said stays."""
        while self._placed and self._placed[0][0] < self._released:
            self._ready += self._placed.popleft()[2]
        self._placed.clear()
        self._textless = []

    def flush(self) -> None:
        """All tokens so far may be said."""
        for _, _, scored in self._placed:
            self._ready += scored
        self._ready += self._textless
        self._placed.clear()
        self._textless = []

    def take(self) -> list[Json]:
        ready, self._ready = self._ready, []
        return ready


def merged(deltas: Sequence[Json]) -> list[Json]:
    """One delta a call: clients take the first list of deltas that they see as it is."""
    ordered = sorted(deltas, key=itemgetter("index"))
    return [_joined(list(group)) for _, group in groupby(ordered, itemgetter("index"))]


def _joined(deltas: list[Json]) -> Json:
    if len(deltas) == 1:
        return deltas[0]
    functions = [delta.get("function") or {} for delta in deltas]
    arguments = "".join(each.get("arguments") or "" for each in functions)
    return deltas[0] | {"function": functions[0] | {"arguments": arguments}}


def _whole(delta: Json) -> Json:
    function = delta["function"]
    called = {"name": function["name"], "arguments": function.get("arguments") or ""}
    return {"id": delta["id"], "type": "function", "function": called}
