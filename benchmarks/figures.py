"""Percentiles of what was measured, and how they are shown."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import median

import msgspec
from rich.table import Table

from benchmarks.load import Round
from benchmarks.streaming import Answer


class Spread(msgspec.Struct, frozen=True):
    """Nearest-rank percentiles of `count` values, in their unit."""

    count: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        ordered = sorted(values)
        return cls(len(ordered), *(_rank(ordered, share) for share in (0.50, 0.95, 0.99)))

    def cells(self, digits: int = 1) -> list[str]:
        return [f"{value:,.{digits}f}" for value in (self.p50, self.p95, self.p99)]


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class Figures(msgspec.Struct, frozen=True):
    """One side of a comparison, over all its measured rounds. Latencies are milliseconds.

    `rate` is the median of the rounds' tokens a second. `gap` is the time between two chunks with
    text, `token` that between two tokens as each request saw it on average. `tokens` come from the
    servers' usage; `chunks` counts what arrived: never more than tokens, unless a server miscounts.
    """

    rate: float
    rates: list[float]
    requests: int
    errors: list[str]
    prompt_tokens: int
    tokens: int
    chunks: int
    short: int  # answers that ended before their limit
    client: float  # the client's share of a core
    ttft: Spread
    gap: Spread
    token: Spread

    @classmethod
    def of(cls, rounds: list[Round], limit: int) -> "Figures":
        answers = [answer for round in rounds for answer in round.good]
        spoke = [answer for answer in answers if answer.arrivals]
        return cls(
            rate=median(round.rate for round in rounds),
            rates=[round.rate for round in rounds],
            requests=sum(len(round.answers) for round in rounds),
            errors=[error for round in rounds for error in round.errors],
            prompt_tokens=sum(answer.usage.prompt_tokens for answer in answers if answer.usage),
            tokens=sum(answer.tokens for answer in answers),
            chunks=sum(len(answer.arrivals) for answer in answers),
            short=sum(answer.tokens < limit for answer in answers),
            client=max(round.client for round in rounds),
            ttft=Spread.of((answer.arrivals[0] - answer.sent) * 1e3 for answer in spoke),
            gap=Spread.of(gap * 1e3 for answer in spoke for gap in gaps(answer)),
            token=Spread.of(_per_token(answer) for answer in spoke if answer.tokens > 1),
        )


def gaps(answer: Answer) -> list[float]:
    """Seconds between one chunk with text and the next."""
    return [later - sooner for sooner, later in pairwise(answer.arrivals)]


def _per_token(answer: Answer) -> float:
    return (answer.arrivals[-1] - answer.arrivals[0]) / (answer.tokens - 1) * 1e3


ROWS: tuple[tuple[str, Callable[[Figures], Spread]], ...] = (
    ("time to first token, ms", lambda figures: figures.ttft),
    ("between chunks, ms", lambda figures: figures.gap),
    ("between tokens, ms", lambda figures: figures.token),
)


def table(sides: dict[str, Figures]) -> Table:
    """A row for each figure of each side, with its percentiles."""
    shown = Table("", "", "p50", "p95", "p99")
    for name, figures in sides.items():
        low, high = min(figures.rates), max(figures.rates)
        shown.add_row(name, "tokens a second", f"{figures.rate:,.0f}", f"{low:,.0f}–{high:,.0f}", "")
        for label, pick in ROWS:
            shown.add_row("", label, *pick(figures).cells())
        shown.add_row("", "tokens, chunks", f"{figures.tokens:,}", f"{figures.chunks:,}", "")
        shown.add_row("", "requests, errors", f"{figures.requests:,}", f"{len(figures.errors)}", "")
        shown.add_section()
    return shown
