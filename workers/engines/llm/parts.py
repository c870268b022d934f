"""Where reasoning, content and calls begin and end in the text of a chat's answer: at markers."""

from itertools import pairwise
from typing import NamedTuple

from mlx_lm.generate import TextStateMachine
from mlx_lm.tokenizer_utils import TokenizerWrapper

from workers.engines.llm.calls import Form

Edges = dict[str, list[tuple[str, str]]]  # state -> (marker, next state)

CONTENT, REASONING = "normal", "reasoning"
CALL, ASIDE = "tool", "aside"  # a block that may be calls, after content and amid reasoning


def edges_of(tokenizer: TokenizerWrapper, form: Form | None) -> Edges:
    """What mlx-lm's make_text_state_machine knows of a model, but for calls: a block amid reasoning goes
    back to it, and one that a grammar guides ends by what it says (`calls.Growing`), not by its marker.

    A state besides those above is a header, whose text is dropped. {} where every text is content.
    """
    edges: Edges = {}
    if tokenizer.has_thinking:
        _add(edges, CONTENT, (tokenizer.think_start, REASONING))
        _add(edges, REASONING, (tokenizer.think_end, CONTENT), (tokenizer.think_start, REASONING))
    _add(edges, CONTENT, *((marker, CONTENT) for marker in tokenizer.structural_markers))
    own_calls = False
    for state, own in tokenizer.response_transitions.items():
        kept = [edge for edge in own if edge[1] != CALL or (form and edge[0] == form.start)]
        own_calls |= any(following == CALL for _, following in kept)
        _add(edges, state, *kept)
    if form:
        _add_calls(edges, form, own_calls, tokenizer.think_end)
    for following in {following for own in edges.values() for _, following in own}:
        edges.setdefault(following, [])
    return edges


def _add_calls(edges: Edges, form: Form, own_calls: bool, think_end: str | None) -> None:
    if not own_calls:
        _add(edges, CONTENT, (form.start, CALL))
    if form.end and not form.guided:
        _add(edges, CALL, (form.end, CONTENT))
    if think_end:
        _add(edges, REASONING, (form.start, ASIDE))
        _add(edges, ASIDE, *([(form.end, REASONING)] if form.end else []), (think_end, CONTENT))


def _add(edges: Edges, state: str, *more: tuple[str, str]) -> None:
    if more:
        edges.setdefault(state, []).extend(more)


class Segment(NamedTuple):
    """A text of one state, at a character of the whole; `marker` ends it, `following` is the state then."""

    state: str
    text: str
    at: int
    marker: str = ""
    following: str = ""


class Splitter:
    """Cuts a text that arrives in pieces at its markers; what may be a part of one is held back."""

    def __init__(self, edges: Edges, initial: str) -> None:
        self._edges = edges
        self._machine = TextStateMachine(edges)
        self._state = self._machine.make_state(initial)
        self._at = 0  # of what is held back

    @property
    def state(self) -> str:
        return self._state[0]

    def split(self, text: str) -> list[Segment]:
        whole, at = self._state[3] + text, 0
        self._state, found = TextStateMachine.split(self._state, text)
        segments = []
        for (state, said), (following, _) in pairwise(found):
            marker = self._marker(state, whole, at + len(said))
            segments.append(Segment(state, said, self._at + at, marker, following))
            at += len(said) + len(marker)
        state, said = found[-1]
        segments.append(Segment(state, said, self._at + at))
        self._at += at + len(said)
        return segments

    def end(self) -> Segment:
        """What was held back, when no more can come."""
        at = self._at
        self._state, text, state = TextStateMachine.flush(self._state)
        self._at += len(text)
        return Segment(state, text, at)

    def go_back(self, characters: int, state: str) -> None:
        """The last `characters` are yet to come, in `state`. Nothing is held back."""
        self._state = self._machine.make_state(state)
        self._at -= characters

    def _marker(self, state: str, whole: str, at: int) -> str:
        """The shortest of those that are there: it was complete first."""
        found = (marker for marker, _ in self._edges[state] if whole.startswith(marker, at))
        return min(found, key=len)


class ContentText:
    """Content, without the white space that parts it from reasoning and calls."""

    def __init__(self) -> None:
        self._held, self._at = "", 0
        self._begun = self._parted = False

    def take(self, text: str, at: int) -> tuple[str, int]:
        """What may be said now, and where it begins."""
        if self._begun:
            return text, at
        if not self._held:
            self._at = at
        self._held += text
        if not self._held.strip():
            return "", at
        said = self._held.lstrip() if self._parted else self._held
        at = self._at + len(self._held) - len(said)
        self._held, self._begun = "", True
        return said, at

    def part(self) -> None:
        """Reasoning or calls have ended here."""
        self._held, self._begun, self._parted = "", False, True

    def end(self) -> tuple[str, int]:
        return ("" if self._parted else self._held), self._at


class ReasoningText:
    """Blocks of reasoning, without the white space around them; an empty line parts them."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = self._again = False

    def take(self, text: str) -> str:
        whole = self._held + text
        said = whole.rstrip() if self._begun else whole.strip()
        self._held = whole[len(whole.rstrip()) :]
        if not said or self._begun:
            return said
        self._begun = True
        return f"\n\n{said}" if self._again else said

    def part(self) -> None:
        self._again |= self._begun
        self._begun, self._held = False, ""
