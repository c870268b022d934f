"""What the queue adds: the echo engine behind the whole system, and alone in a loop.

    python -m benchmarks.overhead

Starts a system of its own (Valkey, API, worker: real processes in a temporary home), measures at each
number of streams the time to the first event and the time between two, then drives the same engine
with the same script and the same random pauses in a loop of this process. "Added" is the difference of
the two at the same percentile. The engine ticks every `step` ms for the whole batch, as a model does:
a request that comes while others run waits for the next tick, in both, so pauses are random. One
stream alone meets an idle engine: there its first event is exactly one step away. Streams begin spread
over the length of an answer; with --burst they all begin at once, and stay so.
"""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import alone
from benchmarks.alone import Script
from benchmarks.figures import Spread, gaps
from benchmarks.streaming import Answer, Target, ask
from benchmarks.system import running

MODELS = """
[[model]]
id = "echo"
engine = "echo"
max_concurrency = {slots}
options = {{ step_ms = {step}, tokens = {tokens} }}
"""


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds: from the request to the first event, and between two events."""

    first: Spread
    gap: Spread
    errors: list[str]

    @classmethod
    def of(cls, answers: list[Answer]) -> "Latency":
        good = [answer for answer in answers if answer.arrivals and not answer.error]
        return cls(
            Spread.of((answer.arrivals[0] - answer.sent) * 1e3 for answer in good),
            Spread.of(gap * 1e3 for answer in good for gap in gaps(answer)),
            [answer.error for answer in answers if answer.error],
        )


class Level(msgspec.Struct, frozen=True):
    script: Script
    system: Latency
    alone: Latency


async def through_system(target: Target, script: Script, seed: int) -> list[Answer]:
    async def stream(number: int, pauses: list[float]) -> list[Answer]:
        answers = []
        for turn, pause in enumerate(pauses):
            await asyncio.sleep(pause)
            answers.append(await ask(target, script.fields(number, turn)))
        return answers

    told = await asyncio.gather(*(stream(n, pauses) for n, pauses in enumerate(script.pauses(seed))))
    return [answer for answers in told for answer in answers]


def measure(url: str, script: Script, rounds: int) -> Level:
    """Both in turn, `rounds` times. The first round through the system is not counted."""
    target = Target(f"{url}/v1", "echo")
    uvloop.run(through_system(target, msgspec.structs.replace(script, each=1), -1))
    served: list[Answer] = []
    looped: list[Answer] = []
    for seed in range(rounds):
        served += uvloop.run(through_system(target, script, seed))
        looped += alone.run(script, seed)
    return Level(script, Latency.of(served), Latency.of(looped))


def table(levels: list[Level]) -> Table:
    """A row each for the system, the engine alone, and what the one adds to the other."""
    ranks = ("p50", "p95", "p99")
    shown = Table("streams", "ms", *(f"first {rank}" for rank in ranks), *(f"gap {rank}" for rank in ranks))
    for level in levels:
        ours, theirs = level.system, level.alone
        shown.add_row(f"{level.script.streams}", "system", *ours.first.cells(), *ours.gap.cells())
        shown.add_row("", "alone", *theirs.first.cells(), *theirs.gap.cells())
        shown.add_row("", "added", *_added(ours.first, theirs.first), *_added(ours.gap, theirs.gap))
        shown.add_section()
    return shown


def _added(ours: Spread, theirs: Spread) -> list[str]:
    return [
        f"{value:+.1f}" for value in (ours.p50 - theirs.p50, ours.p95 - theirs.p95, ours.p99 - theirs.p99)
    ]


def counts(level: Level) -> str:
    ours, errors = level.system, level.system.errors
    counted = f"{level.script.streams}: {ours.first.count:,} answers, {ours.gap.count:,} gaps"
    return counted + (f", {len(errors)} ERRORS: {errors[0]}" if errors else "")


def main(
    streams: Annotated[
        str, typer.Option(help="Requests in parallel, each level after the other.")
    ] = "1,16,64",
    step: Annotated[float, typer.Option(help="Milliseconds of one engine step.")] = 20.0,
    tokens: Annotated[int, typer.Option(help="Events of one answer.")] = 50,
    seconds: Annotated[float, typer.Option(help="About how long a round takes.")] = 8.0,
    rounds: Annotated[int, typer.Option(help="Measured rounds of each level.")] = 3,
    burst: Annotated[bool, typer.Option(help="All streams ask at the same time.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as well.")] = None,
) -> None:
    """Measure what the queue adds to an engine."""
    numbers = [int(level) for level in streams.split(",")]
    each = max(1, round(seconds / ((tokens + 1) * step / 1000)))
    began = time.monotonic()
    with running(MODELS.format(slots=max(numbers), step=step, tokens=tokens)) as system:
        levels = [measure(system.url, Script(n, each, tokens, step, burst), rounds) for n in numbers]
    console = Console()
    starts = "in bursts" if burst else "spread"
    took = f"{time.monotonic() - began:.0f} s in all"
    console.print(f"echo, {tokens} events of {step:g} ms, {rounds} rounds, {starts} ({took})")
    console.print(table(levels))
    for level in levels:
        console.print(counts(level))
    if json:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(levels)))
    raise typer.Exit(1 if any(level.system.errors for level in levels) else 0)


if __name__ == "__main__":
    typer.run(main)
