"""Texts a second through the service, beside the bare model in a loop of one process.

    python -m benchmarks.embeddings

Starts a system of its own with the model. Each load is sent to the service, and then the same texts to the
model alone in another process, one request after another, by length and in batches of up to 32, tokenising
among it; the two in turn, `--rounds` times, because machines drift. Every text is another one: nothing is
cached on either side.
"""

import asyncio
import base64
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated

import httpx
import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.child import child
from benchmarks.system import running

MODELS = """
[[model]]
id = "embedding"
engine = "embedding"
source = "{model}"
max_concurrency = 64
"""
WORDS = (
    "the a of and in to it was that he she for on with as had but river mountain engine kitchen library"
    " garden harbour winter morning letter answer question machine music window silver forest paper market"
    " bridge computes remembers opens carries follows measures quickly slowly seldom often never always"
).split()


BATCH = 32  # texts that the loop gives the model at once, if a request has so many


class Load(msgspec.Struct, frozen=True):
    """`texts` in requests of `each`, of which `clients` are under way at once."""

    texts: int
    each: int = 1
    clients: int = 1


LOADS = (Load(64), Load(512, clients=32), Load(512, each=32), Load(2048, each=2048))

Loop = Callable[[list[str], int], tuple[float, np.ndarray]]  # seconds and vectors; requests of so many texts


def bare_model(path: Path) -> Loop:
    """In the child process."""
    from workers.engines.embedding import load_model

    encoder = load_model(path)
    encoder.tokenizer.no_truncation()
    encoder.tokenizer.no_padding()

    def embed(texts: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        for at in range(0, len(texts), BATCH):
            rows = [found.ids for found in encoder.tokenizer.encode_batch_fast(texts[at : at + BATCH])]
            vectors = np.array(encoder.vectors(rows, max(map(len, rows))))
            yield from zip(texts[at : at + BATCH], vectors, strict=True)

    def loop(texts: list[str], each: int) -> tuple[float, np.ndarray]:
        began = time.perf_counter()
        parts = (sorted(texts[at : at + each], key=len) for at in range(0, len(texts), each))
        found = {text: vector for part in parts for text, vector in embed(part)}
        took = time.perf_counter() - began
        return took, np.stack([found[text] for text in texts])

    return loop


async def through_service(url: str, texts: list[str], load: Load) -> tuple[float, np.ndarray]:
    """Seconds and vectors of a load. Raises httpx.HTTPError."""
    turns = asyncio.Semaphore(load.clients)
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def ask(part: list[str]) -> list[np.ndarray]:
            body = {"model": "embedding", "input": part, "encoding_format": "base64"}
            async with turns:
                answer = await client.post("/v1/embeddings", json=body)
            answer.raise_for_status()
            data = answer.json()["data"]
            return [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in data]

        began = time.perf_counter()
        parts = [texts[at : at + load.each] for at in range(0, len(texts), load.each)]
        found = await asyncio.gather(*map(ask, parts))
        return time.perf_counter() - began, np.stack([vector for part in found for vector in part])


class Report(msgspec.Struct):
    """Of one load: texts a second of each round, and the least cosine between the two sides' vectors."""

    load: Load
    service: list[float] = []
    loop: list[float] = []
    cosine: float = 1.0

    @property
    def ratio(self) -> float:
        return median(ours / theirs for ours, theirs in zip(self.service, self.loop, strict=True))


def measure(url: str, loop: Loop, load: Load, rounds: int) -> Report:
    report = Report(load)
    for number in range(rounds + 1):
        texts = sentences(load.texts, seed=number)
        took, ours = asyncio.run(through_service(url, texts, load))
        alone, theirs = loop(texts, load.each)
        report.cosine = min(report.cosine, float((ours * theirs).sum(axis=1).min()))
        if number:  # the first round warms up both
            report.service.append(load.texts / took)
            report.loop.append(load.texts / alone)
    return report


def sentences(count: int, seed: int) -> list[str]:
    """Different texts of 4 to 24 words."""
    chance = random.Random(seed)
    return [f"{n} {' '.join(chance.choices(WORDS, k=chance.randint(4, 24)))}." for n in range(count)]


def show(reports: list[Report]) -> None:
    table = Table("a request", "at once", "service, texts/s", "loop, texts/s", "service / loop", "cosine")
    for report in reports:
        load = report.load
        rates = [f"{median(side):,.0f}" for side in (report.service, report.loop)]
        table.add_row(
            f"{load.each:,}", f"{load.clients}", *rates, f"{report.ratio:.2f}", f"≥ {report.cosine:.5f}"
        )
    Console().print(table)


def main(
    model: Annotated[Path, typer.Option(help="The model's folder.")] = Path(
        "~/.ominix/models/all-minilm-l6-v2"
    ),
    rounds: Annotated[int, typer.Option(help="Measured rounds.")] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as well.")] = None,
) -> None:
    """Compare the service with the model in a loop: one text and many in a request, one client and many."""
    model = model.expanduser()
    with child(bare_model, model) as loop, running(MODELS.format(model=model)) as system:
        reports = [measure(system.url, loop, load, rounds) for load in LOADS]
    show(reports)
    if json:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(reports)))


if __name__ == "__main__":
    typer.run(main)
