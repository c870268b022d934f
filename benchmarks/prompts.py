"""What long prompts cost: one whose beginning is known, and one that arrives while others are answered.

    python -m benchmarks.prompts

First, in a system of its own, the time to the first token of a prompt of 1,000 tokens and more, and of the
next with the same beginning. Then 8 answers are running in the engine itself when a prompt of 2,000 tokens
arrives: the longest pause of any of them, beside a usual step and the longest piece of the same prompt alone.
"""

import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from benchmarks.load import Plan
from benchmarks.streaming import Answer, Target, ask
from benchmarks.system import running
from shared.jobs import JobSpec
from shared.manifest import ModelEntry
from workers import memory

MODELS = """
[[model]]
id = "chat"
engine = "llm"
source = "{model}"
max_concurrency = 16
context_length = 8192
"""
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


def loaded(model: Path) -> Any:
    memory.preload_blas()
    from workers.engines import llm

    return llm.load(ModelEntry(id="chat", engine="llm", max_concurrency=16, context_length=8192), model)


def spec(name: str, content: str, tokens: int) -> JobSpec:
    asked = {"model": "chat", "messages": [{"role": "user", "content": content}]}
    params = asked | {"max_tokens": tokens, "temperature": 0} | TEXT
    return JobSpec(id=name, task="chat", model="chat", params=params, created=0, timeout=600)


def steps(engine: Any, job: JobSpec) -> list[float]:
    """Seconds of every step until the job has said something, in which all others say a token too."""
    engine.add(engine.prepare(job, None))
    took, told = [], False
    while not told:
        began = time.perf_counter()
        told = any(job_id == job.id for job_id, _ in engine.step())
        took.append(time.perf_counter() - began)
    return took


def interrupted(engine: Any, seed: int) -> tuple[float, float, float]:
    """Seconds: the usual step of 8 streams, their longest while a long prompt is read, and the longest of
    the same prompt without them."""
    long = text(1000 + seed, 1850)
    alone = steps(engine, spec("alone", f"Alone: {long}", 1))
    for n in range(8):
        steps(engine, spec(f"stream {n}", text(2000 + 8 * seed + n, 20), 1000))
    began = time.perf_counter()
    for _ in range(20):
        engine.step()
    usual = (time.perf_counter() - began) / 20
    during = steps(engine, spec("late", f"Beside: {long}", 1))
    for n in range(8):
        engine.abort(f"stream {n}")
    return usual, max(during), max(alone)


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
    engine = loaded(model.expanduser())
    for turn in range(rounds):
        usual, longest, piece = interrupted(engine, turn)
        console.print(
            f"8 streams: a token every {usual:.2f} s, the longest pause while 2,000 tokens are read "
            f"{longest:.2f} s; their longest piece alone {piece:.2f} s: ratio {longest / (usual + piece):.2f}"
        )
    engine.close()


if __name__ == "__main__":
    typer.run(main)
