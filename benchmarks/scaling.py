"""What more workers of one model bring: requests a second of a closed loop, with one worker and with several.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --replicas 1 --replicas 2 --replicas 3 --seconds 20

The echo engine waits instead of computing, so that what is measured is how OminiX spreads work over workers:
each has two slots, a step takes 100 ms and an answer five of them.
"""

import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import httpx2 as httpx
import typer
from rich.console import Console
from rich.table import Table

MODELS = '[[model]]\nid = "echo"\nengine = "echo"\nmax_concurrency = 2\noptions = { step_ms = 100 }\n'
WORDS = "one two three four five"
READY = re.compile(r"ready at (http\S+)")
PATIENCE = 60.0  # seconds


def start(home: Path) -> tuple[subprocess.Popen, str]:
    """`ominix serve`, and its URL once it is ready."""
    (home / "models.toml").write_text(MODELS)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("OMINIX_") and k != "REDIS_URL"}
    environ |= {"OMINIX_HOME": f"{home}", "OMINIX_MODELS_FILE": f"{home}/models.toml", "OMINIX_PORT": "0"}
    output = home / "output"
    with output.open("wb") as file:
        command = [sys.executable, "-m", "cli", "serve"]
        process = subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT)
    limit = time.monotonic() + PATIENCE
    while not (ready := READY.search(output.read_text())):
        if time.monotonic() > limit or process.poll() is not None:
            process.terminate()
            raise SystemExit(output.read_text())
        time.sleep(0.1)
    return process, ready[1]


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

    async def ask() -> None:
        while (began := time.perf_counter()) < end:
            answer = await client.post("/v1/chat/completions", json=body)
            if answer.raise_for_status().json()["choices"][0]["message"]["content"] != WORDS:
                raise SystemExit(f"a wrong answer: {answer.text}")
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(clients)))
    return len(took) / (time.perf_counter() - began), took


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
    Console().print(table)


def main(
    replicas: Annotated[list[int] | None, typer.Option(help="Workers; may be repeated.")] = None,
    clients: Annotated[int, typer.Option(help="Each sends its next request when it has an answer.")] = 24,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 15.0,
) -> None:
    """Scale one model up while the system runs, and measure at each number of workers."""
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(Path(folder))
        try:
            asyncio.run(measure(url, replicas or [1, 2, 3, 1], clients, seconds))
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    typer.run(main)
