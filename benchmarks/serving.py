"""Streaming load on an OpenAI-compatible server, and how far it is from the bare generator.

    python -m benchmarks.serving --model qwen3-4b --streams 64 --tokens 128 --ceiling FOLDER

Prompts differ from their first words on, in every request and every round, so that no prompt cache
helps. With --ceiling each measured round is followed by the same round on mlx-lm's BatchGenerator
alone (`benchmarks/ceiling.py`): interleaved, because machines drift; medians, because they hiccup.
"""

import asyncio
import contextlib
import os
import platform
from pathlib import Path
from statistics import median
from typing import Annotated

import msgspec
import typer
import uvloop
from rich.console import Console

from benchmarks import load
from benchmarks.ceiling import Ceiling, bare_generator
from benchmarks.child import child
from benchmarks.figures import Figures, table
from benchmarks.load import Plan, Round
from benchmarks.streaming import Target

BUSY = 0.8  # of a core: above it the client may be what is being measured


class Report(msgspec.Struct):
    """`ratios` has server/ceiling of each round's tokens a second, `ratio` their median."""

    url: str
    model: str
    machine: str
    plan: Plan
    sides: dict[str, Figures]
    ratio: float | None = None
    ratios: list[float] = []


async def measure(target: Target, plan: Plan, rounds: int, warmup: int, ceiling: Ceiling | None) -> Report:
    """Warm up both sides, then measure them in turn."""
    served: list[Round] = []
    bare: list[Round] = []
    for seed in range(warmup + rounds):
        served.append(await load.run(target, plan, seed))
        if ceiling:
            bare.append(await asyncio.to_thread(ceiling, plan, seed))
    served, bare = served[warmup:], bare[warmup:]
    sides = {"server": Figures.of(served, plan.tokens)}
    if bare:
        sides["ceiling"] = Figures.of(bare, plan.tokens)
    ratios = [ours.rate / theirs.rate for ours, theirs in zip(served, bare, strict=False)]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    middle = median(ratios) if ratios else None
    return Report(target.url, target.model, machine, plan, sides, middle, ratios)


def show(report: Report) -> None:
    plan, console = report.plan, Console()
    wishes = "greedy" if plan.greedy else "sampled"
    console.print(
        f"{report.model}: {plan.streams} streams × {plan.each} × {plan.tokens} tokens, {wishes}, "
        "prompts all different"
    )
    console.print(table(report.sides))
    if report.ratio is not None:
        each = ", ".join(f"{ratio:.1%}" for ratio in report.ratios)
        console.print(f"server / ceiling: {report.ratio:.1%} (median of {each})")
    for doubt in doubts(report):
        console.print(f"[yellow]doubtful: {doubt}")


def doubts(report: Report) -> list[str]:
    """Why these figures may not mean what they say."""
    found = []
    server = report.sides["server"]
    if server.client > BUSY:
        found.append(f"the client itself took {server.client:.0%} of a core")
    read = {name: side.prompt_tokens for name, side in report.sides.items()}
    if len(set(read.values())) > 1 and not server.errors:
        found.append(f"the sides read prompts of different lengths: {read}")
    for name, side in report.sides.items():
        if side.errors:
            found.append(f"{len(side.errors)} requests to the {name} failed, one with: {side.errors[0]}")
        if side.chunks > side.tokens:
            found.append(f"the {name} sent {side.chunks} chunks but counts {side.tokens} tokens")
        if side.short:
            found.append(f"{side.short} answers of the {name} ended before {report.plan.tokens} tokens")
    return found


def main(
    model: Annotated[str, typer.Option(help="The model's id.")],
    url: Annotated[str, typer.Option(help="The OpenAI base URL.")] = "http://127.0.0.1:8080/v1",
    streams: Annotated[int, typer.Option(help="Requests in parallel.")] = 64,
    tokens: Annotated[int, typer.Option(help="Tokens to generate, each request.")] = 128,
    each: Annotated[int, typer.Option(help="Requests of a stream in a round, one after another.")] = 1,
    words: Annotated[int, typer.Option(help="Length of the prompts.")] = 32,
    rounds: Annotated[int, typer.Option(help="Measured rounds.")] = 3,
    warmup: Annotated[int, typer.Option(help="Rounds before them, which do not count.")] = 2,
    greedy: Annotated[bool, typer.Option(help="Temperature 0.")] = True,
    ceiling: Annotated[Path | None, typer.Option(help="The model's folder: measure the ceiling too.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as well.")] = None,
) -> None:
    """Load a server and report its speed. OPENAI_API_KEY is sent if it is set."""
    if ceiling and not greedy:
        raise typer.BadParameter("--ceiling compares greedy decoding only")
    target = Target(url, model, os.environ.get("OPENAI_API_KEY", ""))
    plan = Plan(streams=streams, tokens=tokens, each=each, words=words, greedy=greedy)
    with child(bare_generator, ceiling, streams) if ceiling else contextlib.nullcontext() as bare:
        report = uvloop.run(measure(target, plan, rounds, warmup, bare))
    show(report)
    if json:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    raise typer.Exit(1 if report.sides["server"].errors else 0)


if __name__ == "__main__":
    typer.run(main)
