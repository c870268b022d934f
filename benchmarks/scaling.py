"""What more workers of one model bring: requests a second of a closed loop, with one worker and with several.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --replicas 1 --replicas 2 --replicas 3 --seconds 20

The echo engine waits instead of computing, so that what is measured is how OminiX spreads work over workers:
each has two slots, a step takes 100 ms and an answer five of them. Then how soon an idle worker takes a
request while the two others of its model are busy: the time to its first word, less the step that says it.
"""

import asyncio
import statistics
import time
from typing import Annotated

import httpx2 as httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Spread
from benchmarks.streaming import Target, ask
from benchmarks.system import running

STEP = 100  # milliseconds
MODELS = f"""
[[model]]
id = "echo"
engine = "echo"
max_concurrency = 2
options = {{ step_ms = {STEP} }}

[[model]]
id = "single"
engine = "echo"
max_concurrency = 1
replicas = 3
options = {{ step_ms = {STEP} }}
"""
WORDS = "one two three four five"
TAKEN = 30  # requests, one after another


async def scale(client: httpx.AsyncClient, replicas: int) -> None:
    asked = await client.post("/v1/models/load", json={"model": "echo", "replicas": replicas})
    job = f"/v1/jobs/{asked.raise_for_status().json()['job_id']}"
    while (view := (await client.get(job)).json())["finished_at"] is None:
        await asyncio.sleep(0.1)
    if view["error"]:
        raise SystemExit(view["error"]["message"])


async def closed_loop(client: httpx.AsyncClient, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Answers a second, and how long each took."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    body = {"model": "echo", "messages": [{"role": "user", "content": WORDS}]}

    async def one() -> None:
        while (began := time.perf_counter()) < end:
            answer = await client.post("/v1/chat/completions", json=body)
            if answer.raise_for_status().json()["choices"][0]["message"]["content"] != WORDS:
                raise SystemExit(f"a wrong answer: {answer.text}")
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return len(took) / (time.perf_counter() - began), took


async def taken(url: str) -> Spread:
    """Milliseconds until the one worker of three that is idle has taken a request."""
    target = Target(f"{url}/v1", "single")

    def words(count: int) -> dict:
        return {"messages": [{"role": "user", "content": "word " * count}]}

    busy = [asyncio.create_task(ask(target, words(TAKEN * 3))) for _ in range(2)]
    await asyncio.sleep(0.5)
    answers = [await ask(target, words(1)) for _ in range(TAKEN)]
    if any(task.done() for task in busy) or any(answer.error for answer in answers):
        raise SystemExit("two workers were not busy, or a request failed")
    await asyncio.gather(*busy)
    return Spread.of((answer.arrivals[0] - answer.sent) * 1e3 - STEP for answer in answers)


async def measure(url: str, replicas: list[int], clients: int, seconds: float) -> None:
    limits = httpx.Limits(max_connections=clients + 4)
    table = Table("workers", "answers/s", "of one", "median s", "slowest s")
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as client:
        first = 0.0
        for count in replicas:
            await scale(client, count)
            await closed_loop(client, clients, 2.0)  # warm connections, and a full line
            rate, took = await closed_loop(client, clients, seconds)
            first = first or rate
            figures = rate, rate / first, statistics.median(took), max(took)
            table.add_row(str(count), *(f"{figure:.2f}" for figure in figures))
    console = Console()
    console.print(table)
    wait = " / ".join((await taken(url)).cells())
    console.print(f"an idle worker takes a request after {wait} ms (p50 / p95 / p99 of {TAKEN})")


def main(
    replicas: Annotated[list[int] | None, typer.Option(help="Workers; may be repeated.")] = None,
    clients: Annotated[int, typer.Option(help="Each sends its next request when it has an answer.")] = 24,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 15.0,
) -> None:
    """Scale one model up while the system runs, and measure at each number of workers."""
    with running(MODELS) as system:
        asyncio.run(measure(system.url, replicas or [1, 2, 3, 1], clients, seconds))


if __name__ == "__main__":
    typer.run(main)
