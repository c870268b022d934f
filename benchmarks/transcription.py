"""Fifty clips through the service, against mlx-audio's own call in a loop of one process.

    python -m benchmarks.transcription

Starts a system of its own with the model, sends the clips all at once, waits for every text, and lets
another process do the same clips one after another with `model.generate(path)`; the two in turn,
`--rounds` times, because machines drift. Then 1, 4 and 16 clips at once through the service, to show
what the shared batch brings. The clips are the real ones of tests/data, over and over: nothing is
cached between two requests on either side.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import msgspec
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.child import child
from benchmarks.recordings import DATA, RATE, TRANSCRIPTS, samples
from benchmarks.system import running
from workers import memory

MODELS = """
[[model]]
id = "speech"
engine = "asr"
source = "{model}"
max_concurrency = {rows}
"""
AT_ONCE = (1, 4, 16)

Loop = Callable[[list[str]], tuple[float, list[str]]]  # seconds and texts of the clips with these names


def bare_model(path: Path) -> Loop:
    """In the child process."""
    from mlx_audio import stt
    from mlx_audio.stt.models.whisper import Model as Whisper

    from workers.engines.asr.precision import to_float32

    model = stt.load(path)
    options: dict[str, Any] = {}
    if isinstance(model, Whisper) and not memory.compact():
        model, options = to_float32(model), {"fp16": False}

    def loop(names: list[str]) -> tuple[float, list[str]]:
        began = time.perf_counter()
        texts = [model.generate(str(DATA / name), **options).text.strip() for name in names]
        return time.perf_counter() - began, texts

    return loop


async def through_service(url: str, names: list[str]) -> tuple[float, list[str]]:
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def ask(name: str) -> str:
            files = {"file": (name, (DATA / name).read_bytes())}
            answer = await client.post("/v1/audio/transcriptions", data={"model": "speech"}, files=files)
            answer.raise_for_status()
            return answer.json()["text"]

        began = time.perf_counter()
        texts = await asyncio.gather(*map(ask, names))
        return time.perf_counter() - began, texts


class Report(msgspec.Struct):
    """Seconds of each round, the ratios service/loop, and audio-seconds a second for n clips at once."""

    clips: int
    audio: float
    service: list[float]
    loop: list[float]
    differing: int
    at_once: dict[int, float] = {}

    @property
    def ratio(self) -> float:
        return median(ours / theirs for ours, theirs in zip(self.service, self.loop, strict=True))


def measure(url: str, loop: Loop, count: int, rounds: int) -> Report:
    names = list(itertools.islice(itertools.cycle(TRANSCRIPTS), count))
    asyncio.run(through_service(url, names[:6]))  # warm up both
    loop(names[:6])
    report = Report(count, length(names), [], [], 0)
    for _ in range(rounds):
        ours, texts = asyncio.run(through_service(url, names))
        theirs, own = loop(names)
        report.service.append(ours)
        report.loop.append(theirs)
        report.differing += sum(a != b for a, b in zip(texts, own, strict=True))
    for at_once in AT_ONCE:
        took = [asyncio.run(through_service(url, group))[0] for group in groups(names[:16], at_once)]
        report.at_once[at_once] = length(names[:16]) / sum(took)
    return report


def groups(names: list[str], size: int) -> Iterator[list[str]]:
    for at in range(0, len(names), size):
        yield names[at : at + size]


def length(names: list[str]) -> float:
    seconds = {name: len(samples(name)) / RATE for name in TRANSCRIPTS}
    return sum(seconds[name] for name in names)


def show(report: Report) -> None:
    console = Console()
    console.print(
        f"{report.clips} clips, {report.audio:.0f} s of speech: service {median(report.service):.1f} s, "
        f"loop {median(report.loop):.1f} s, service / loop {report.ratio:.2f}"
    )
    console.print(f"texts that differ: {report.differing}")
    table = Table("clips at once", "audio-seconds a second", "real-time factor")
    for at_once, rate in report.at_once.items():
        table.add_row(f"{at_once}", f"{rate:.1f}", f"{1 / rate:.3f}")
    console.print(table)


def main(
    model: Annotated[Path, typer.Option(help="The model's folder.")] = Path(
        "~/.ominix/models/whisper-tiny.en"
    ),
    clips: Annotated[int, typer.Option(help="Clips of a round.")] = 50,
    rounds: Annotated[int, typer.Option(help="Measured rounds.")] = 3,
    rows: Annotated[int, typer.Option(help="max_concurrency of the model.")] = 8,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as well.")] = None,
) -> None:
    """Compare the service with mlx-audio in a loop, and 1, 4 and 16 clips at once."""
    model = model.expanduser()
    with child(bare_model, model) as loop, running(MODELS.format(model=model, rows=rows)) as system:
        report = measure(system.url, loop, clips, rounds)
    show(report)
    if json:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))


if __name__ == "__main__":
    typer.run(main)
