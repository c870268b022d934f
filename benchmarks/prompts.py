"""What long prompts cost: one whose beginning is known, and one that arrives while others are answered.

    python -m benchmarks.prompts

Starts a system of its own with the starter model. First the time to the first token of a prompt of 1,000
tokens and more, and of the next with the same beginning. Then 8 answers are streamed while a prompt of 2,000
tokens arrives: the longest pause of any of them, beside the usual one and the time that one piece of a
prompt takes to read.
"""

import asyncio
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from benchmarks.load import Plan
from benchmarks.streaming import Answer, Target, ask
from benchmarks.system import running

MODELS = """
[[model]]
id = "chat"
engine = "llm"
source = "{model}"
max_concurrency = 16
context_length = 8192
"""
PIECE = 128  # tokens, on a CPU
TEXT = {"logit_bias": {"0": -100, "1": -100, "2": -100}}  # without the tokens that say nothing


def text(seed: int, words: int) -> str:
    return Plan(streams=1, words=words).prompts(seed)[0][0]


async def first_token(target: Target, content: str) -> tuple[float, Answer]:
    fields = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0}
    answer = await ask(target, fields | TEXT)
    if answer.error or not answer.arrivals:
        raise RuntimeError(answer.error or "no text")
    return answer.arrivals[0] - answer.sent, answer


async def shared(target: Target, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds to the first token: cold, and with a known beginning."""
    cold, known = [], []
    for turn in range(rounds):
        prefix = text(turn, 1000)
        took, answer = await first_token(target, prefix + " First question: who is there?")
        if answer.usage.prompt_tokens < 1000:
            raise RuntimeError(f"the prompt has {answer.usage.prompt_tokens} tokens only")
        cold.append(took)
        known.append((await first_token(target, prefix + " Second question: what is it?"))[0])
    return cold, known


async def interrupted(target: Target, seed: int) -> tuple[float, float, float]:
    """Seconds: the usual gap of 8 streams alone, their longest while a long prompt is read, and one piece."""
    long = text(1000 + seed, 1850)
    took, answer = await first_token(target, text(2000 + seed, 1850))
    piece = took / (answer.usage.prompt_tokens / PIECE)
    plan = Plan(streams=8, tokens=160)
    streams = [
        asyncio.create_task(ask(target, plan.fields(prompts[0]) | TEXT))
        for prompts in plan.prompts(seed)
    ]
    await asyncio.sleep(6)
    _, late = await first_token(target, long)
    answers = await asyncio.gather(*streams)
    gaps = [(b, b - a) for each in answers for a, b in pairwise(each.arrivals)]
    usual = median(gap for at, gap in gaps if at < late.sent)
    during = [gap for at, gap in gaps if late.sent < at <= late.arrivals[0]]
    return usual, max(during), piece


def main(
    model: Annotated[Path, typer.Option(help="The model's folder.")] = Path("~/.ominix/models/smollm2-135m"),
    rounds: Annotated[int, typer.Option(help="Of each.")] = 3,
) -> None:
    """Measure shared beginnings and long prompts."""
    console = Console(width=110)
    with running(MODELS.format(model=model.expanduser())) as system:
        target = Target(f"{system.url}/v1", "chat")
        cold, known = uvloop.run(shared(target, rounds))
        ratios = [b / a for a, b in zip(cold, known, strict=True)]
        console.print(
            f"first token: cold {median(cold):.2f} s, known beginning {median(known):.2f} s; ratio "
            f"{median(ratios):.3f} (of {', '.join(f'{ratio:.3f}' for ratio in ratios)})"
        )
        for turn in range(rounds):
            usual, longest, piece = uvloop.run(interrupted(target, turn))
            console.print(
                f"8 streams: a token every {usual:.2f} s; while 2,000 tokens are read the longest pause is "
                f"{longest:.2f} s; a step and one piece of {PIECE} tokens take {usual + piece:.2f} s"
            )


if __name__ == "__main__":
    typer.run(main)
