"""What subtitles are laid out from: words, or single characters where a script has no spaces, with
their times."""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from shared.transcript import Segment, spaced

NARROW, WIDE = 10, 21  # the room that a character takes
LINE = 420  # so that 42 narrow or 20 full-width ones fit
NEAR = 40  # characters within which the next word of a segment is looked for
WORD = re.compile(r"\S+")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\ufeff]")
NO_START = frozenset("ー々ゝゞぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮะาำๆฯະາຳ")  # no line begins with these
BOUND_BACK = frozenset(("Mn", "Mc", "Me", "Pe", "Pf", "Po", "Cf"))  # closing marks, by Unicode category
BOUND_ON = frozenset(("Ps", "Pi", "Cf"))  # opening marks
LEADING = frozenset("เแโใไເແໂໃໄ")  # vowels that are written before their consonant


class Unit(NamedTuple):
    """`start` and `end` are seconds; `space` is whether a space parts it from the unit before;
    `width` is the room it takes; `first` marks the beginning of a segment."""

    text: str
    start: float
    end: float
    space: bool
    width: int
    first: bool


def units(segments: Sequence[Segment], duration: float) -> list[Unit]:
    """Every unit of a recording of `duration` seconds, in order, times in order too.

    Times of words are taken where a segment has them; else its characters share its time evenly.
    """
    found: list[Unit] = []
    for segment, text in _settled(segments, duration):
        clock = _Clock(segment, text)
        space = bool(found) and spaced(found[-1].text, text) != text
        for first, last in _spans(text):
            piece = text[first:last]
            start, end = clock.start(first), clock.end(last)
            apart = text[first - 1] == " " if first else space
            found.append(Unit(piece, start, max(start, end), apart, width(piece), not first))
    return found


def width(text: str) -> int:
    if text.isascii():
        return NARROW * len(text)
    return sum(WIDE if unicodedata.east_asian_width(each) in "WF" else NARROW for each in text)


def _settled(segments: Sequence[Segment], duration: float) -> Iterator[tuple[Segment, str]]:
    """Segments that say something, one after the other within the recording.

    Where two overlap, the start of the later one counts; one that starts before an earlier one waits.
    """
    said = [(each, text) for each in segments if (text := " ".join(CONTROL.sub("", each.text).split()))]
    starts: list[float] = []
    for segment, _ in said:
        starts.append(max(_within(segment.start, duration), starts[-1] if starts else 0.0))
    limits = [after if after > start else duration for start, after in pairwise([*starts, duration])]
    for (segment, text), start, limit in zip(said, starts, limits, strict=True):
        end = max(start, min(_within(segment.end, duration), limit))
        yield Segment(start, end, text, words=segment.words), text


def _within(time: float, duration: float) -> float:
    return max(0.0, min(time, duration))  # in this order NaN becomes 0


class _Clock:
    """When each character of a segment is said: known at words, in proportion between them."""

    def __init__(self, segment: Segment, text: str) -> None:
        self._places = [0]
        self._times = [segment.start]
        at = 0
        for word in segment.words or ():
            spoken = word.word.strip()
            place = text.find(spoken, at, at + len(spoken) + NEAR) if spoken else -1
            if place >= 0:
                at = place + len(spoken)
                self._add(place, _within(word.start, segment.end))
                self._add(at, _within(word.end, segment.end))
        self._add(len(text), segment.end)

    def start(self, place: int) -> float:
        """When the character at `place` begins: after a pause that is there."""
        return self._at(place, bisect_right(self._places, place) - 1)

    def end(self, place: int) -> float:
        """When the character before `place` is over: before a pause that is there."""
        return self._at(place, bisect_left(self._places, place) - 1)

    def _add(self, place: int, time: float) -> None:
        self._places.append(place)
        self._times.append(max(time, self._times[-1]))

    def _at(self, place: int, before: int) -> float:
        before = max(0, min(before, len(self._places) - 2))
        (first, last), (begun, over) = (each[before : before + 2] for each in (self._places, self._times))
        return begun + (over - begun) * (place - first) / (last - first) if last > first else begun


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where a line may be broken: the units of `text`, none wider than a line."""
    for word in WORD.finditer(text):
        first, last = word.span()
        for at in range(first + 1, last) if not word[0].isascii() else ():
            if _parts(text[at - 1], text[at]):
                yield from _no_wider(text, first, at)
                first = at
        yield from _no_wider(text, first, last)


def _parts(before: str, after: str) -> bool:
    """Whether a line may be broken between two characters without a space."""
    if not (_unspaced(before) or _unspaced(after)):
        return False
    if after in NO_START or unicodedata.category(after) in BOUND_BACK:
        return False
    return before not in LEADING and unicodedata.category(before) not in BOUND_ON


@cache
def _unspaced(character: str) -> bool:
    return spaced(character, character) == character


def _no_wider(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The span itself, or the pieces of a word that is longer than a line."""
    room = LINE
    for at in range(first, last):
        room -= width(text[at])
        if room < 0 and at > first:
            yield first, at
            first, room = at, LINE - width(text[at])
    yield first, last
