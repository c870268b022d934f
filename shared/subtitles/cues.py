"""From what was heard to cues: where to cut, where to break the line, how long to show it."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from shared.subtitles.units import LINE, NARROW, Unit, units
from shared.transcript import Segment

SHORTEST, LONGEST = 0.7, 7.0  # seconds of a cue
BRIEF = 1.2  # seconds: a shorter cue joins its neighbour if both fit
PAUSE = 1.0  # seconds of silence over which no cue lasts
BREATH = 0.3  # seconds of silence that make a good place to cut
READING = 20 * NARROW  # what people read in a second
SENTENCE_END = (".", "?", "!", "…", "。", "？", "！", "؟", "।")
CLAUSE_END = (",", ";", ":", "—", "–", "、", "，", "；", "：", "،")
CLOSING = "\"'”’»)]」』）】"
TITLES = frozenset(("mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "vs."))  # not the end of a sentence


class Cue(NamedTuple):
    """`start` and `end` are milliseconds; one or two lines."""

    start: int
    end: int
    lines: tuple[str, ...]


class Layout:
    """Sums over the units, so that any run of them is measured at once. A run is (first, last), the
    last one excluded."""

    def __init__(self, every: Sequence[Unit]) -> None:
        self.units = every
        self._widths = [0, *accumulate(unit.width + NARROW * unit.space for unit in every)]
        self._merits = [_merit(unit, after) for unit, after in zip(every, every[1:], strict=False)]

    def width(self, first: int, last: int) -> int:
        return self._widths[last] - self._widths[first] - NARROW * self.units[first].space

    def lasts(self, first: int, last: int) -> float:
        """Seconds."""
        return self.units[last - 1].end - self.units[first].start

    def fits(self, first: int, last: int) -> bool:
        """Whether a run can be one cue. A few words said slowly need not be cut."""
        if self.lasts(first, last) > LONGEST and self.width(first, last) > LINE / 2 and last - first > 1:
            return False
        return self.width(first, last) <= LINE or self.line_break(first, last) is not None

    def line_break(self, first: int, last: int) -> int | None:
        """Where the second line of a run begins; None if two lines do not hold it."""
        if self.width(first, last) > 2 * LINE + NARROW:
            return None
        places = [at for at in range(first + 1, last) if self._two_lines(first, at, last)]
        return self._best(first, last, places)

    def cut(self, first: int, last: int) -> int:
        """Where to cut a run of several units into two cues."""
        return self._best(first, last, range(first + 1, last)) or first + 1

    def text(self, first: int, last: int) -> str:
        parts = [(" " if unit.space else "") + unit.text for unit in self.units[first:last]]
        return "".join(parts).strip()

    def lines(self, first: int, last: int) -> tuple[str, ...]:
        if self.width(first, last) <= LINE or not (middle := self.line_break(first, last)):
            return (self.text(first, last),)
        return self.text(first, middle), self.text(middle, last)

    def ends_sentence(self, at: int) -> bool:
        """Whether a sentence or a stretch of speech ends before the unit `at`."""
        silence = self.units[at].start - self.units[at - 1].end
        return silence >= PAUSE or _ends_sentence(self.units[at - 1].text)

    def _two_lines(self, first: int, at: int, last: int) -> bool:
        return self.width(first, at) <= LINE and self.width(at, last) <= LINE

    def _best(self, first: int, last: int, places: Sequence[int]) -> int | None:
        """The place that leaves the two sides most alike, allowing for how good a place it is."""
        whole = self.width(first, last)

        def cost(at: int) -> float:
            uneven = abs(self.width(first, at) - self.width(at, last)) / whole
            return uneven - self._merits[at - 1]

        return min(places, key=cost, default=None)


def cues(segments: Sequence[Segment], duration: float) -> list[Cue]:
    """What was heard in a recording of `duration` seconds as cues: in order, not one empty, none over
    the other, each 0.7 to 7 s where the recording has room for it."""
    every = units(segments, duration)
    layout = Layout(every)
    runs = _joined(layout, [run for stretch in _sentences(layout) for run in _halved(layout, *stretch)])
    spoken = [(every[first].start, every[last - 1].end, layout.width(first, last)) for first, last in runs]
    times = _shown(spoken, duration)
    return [Cue(*time, layout.lines(*run)) for time, run in zip(times, runs, strict=True)]


Run = tuple[int, int]


def _sentences(layout: Layout) -> list[Run]:
    every = layout.units
    ends = [at for at in range(1, len(every)) if layout.ends_sentence(at)]
    return list(zip([0, *ends], [*ends, len(every)], strict=True)) if every else []


def _halved(layout: Layout, first: int, last: int) -> list[Run]:
    """A run as runs that fit."""
    if layout.fits(first, last):
        return [(first, last)]
    middle = layout.cut(first, last)
    return _halved(layout, first, middle) + _halved(layout, middle, last)


def _joined(layout: Layout, runs: list[Run]) -> list[Run]:
    """Runs too brief to read, together with a neighbour; or cut anew with it, if one cue cannot hold both."""
    joined: list[Run] = []
    for run in runs:
        joined.append(run)
        if len(joined) > 1 and (better := _together(layout, *joined[-2:])):
            joined[-2:] = better
    return joined


def _together(layout: Layout, run: Run, following: Run) -> list[Run] | None:
    if min(layout.lasts(*run), layout.lasts(*following)) >= BRIEF:
        return None
    if layout.units[following[0]].start - layout.units[run[1] - 1].end >= PAUSE:
        return None
    both = run[0], following[1]
    if layout.fits(*both):
        return [both]
    if min(layout.lasts(*run), layout.lasts(*following)) >= SHORTEST:
        return None
    parts = _halved(layout, *both)
    return parts if len(parts) == 2 and min(layout.lasts(*part) for part in parts) >= SHORTEST else None


def _shown(spoken: Sequence[tuple[float, float, int]], duration: float) -> list[tuple[int, int]]:
    """When to show cues, in milliseconds, from the start, end and width of each as it is spoken.

    Each is given `least`, from the silence behind it or else from the cue before; starts are kept where
    there is room for the ones before and behind.
    """
    count, whole = len(spoken), max(round(duration * 1000), len(spoken))
    if not count:
        return []
    least = min(round(SHORTEST * 1000), whole // count)
    starts = [max(round(start * 1000), at * least) for at, (start, _, _) in enumerate(spoken)]
    after = whole
    for at in reversed(range(count)):
        starts[at] = after = min(starts[at], after - least)
    times = []
    for start, limit, (_, end, room) in zip(starts, [*starts[1:], whole], spoken, strict=True):
        wished = max(round(end * 1000), start + least, start + round(room / READING * 1000))
        times.append((start, min(wished, limit, start + round(LONGEST * 1000))))
    return times


def _merit(unit: Unit, after: Unit) -> float:
    """How good a place between two units is for a break, as the unevenness it may cost."""
    silence = min(max(after.start - unit.end, 0.0) / BREATH, 1.0) * 0.3
    if _ends_sentence(unit.text):
        return 0.6 + silence
    if unit.text.rstrip(CLOSING).endswith(CLAUSE_END):
        return 0.4 + silence
    return max(silence, 0.2 * after.first)


def _ends_sentence(text: str) -> bool:
    bare = text.rstrip(CLOSING)
    return bare.endswith(SENTENCE_END) and bare.lower() not in TITLES
