"""A chat beside a hundred batch transcriptions on another model: what each costs the other.

    python -m benchmarks.priority

Starts a system of its own with two models, twice: batch work keeps `--share` of its time beside
interactive requests, and then all of it (the priority switched off). In each, a reader asks for one
streamed answer after another, with a pause to read it in between: on the idle machine, and while the
transcriptions run. The transcriptions' rate is that of their ends, alone and beside the reader. What
counts are the ratios within one system.
"""

import asyncio
import itertools
import time
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Spread, gaps
from benchmarks.load import Plan
from benchmarks.recordings import DATA, TRANSCRIPTS
from benchmarks.streaming import Answer, Target, ask
from benchmarks.system import running

MODELS = """
[[model]]
id = "chat"
engine = "llm"
source = "{chat}"

[[model]]
id = "speech"
engine = "asr"
source = "{speech}"
max_concurrency = {rows}
max_waiting = 100000
"""
WARM_UP = 8  # seconds of batch work before it is counted


class Reading(msgspec.Struct, frozen=True):
    """How one reads: `answers` of `tokens` tokens, `pause` seconds between them."""

    answers: int
    tokens: int
    pause: float


class Side(msgspec.Struct, frozen=True):
    """One system. Milliseconds between two tokens and to the first; transcriptions a second."""

    share: float
    idle: Spread
    beside: Spread
    first_idle: Spread
    first_beside: Spread
    alone: float
    kept: float
    errors: list[str]


class Recordings:
    """Jobs in the batch lane, the clips of tests/data over and over."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=600)
        self._clips = itertools.cycle([(DATA / name).read_bytes() for name in TRANSCRIPTS])
        self._sent = 0

    def fill(self, count: int) -> None:
        """See that so many have not ended."""
        for _ in range(count - (self._sent - self.ended())):
            answer = self._http.post(
                "/v1/audio/transcriptions",
                data={"model": "speech"},
                files={"file": ("a.flac", next(self._clips))},
                headers={"Prefer": "respond-async"},
            )
            answer.raise_for_status()
            self._sent += 1

    def ended(self) -> int:
        """How many have been transcribed. Raises RuntimeError if one has failed."""
        if self._count("failed"):
            raise RuntimeError("a transcription has failed")
        return self._count("completed")

    def _count(self, status: str) -> int:
        count, query = 0, {"status": status, "model": "speech", "limit": 100}
        while True:
            page = self._http.get("/v1/jobs", params=query).raise_for_status().json()
            count += len(page["data"])
            if not page["has_more"]:
                return count
            query["after"] = page["last_id"]


class Rate:
    """The ends a second between two moments."""

    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings
        self._before, self._since = recordings.ended(), time.monotonic()

    def now(self) -> float:
        return (self._recordings.ended() - self._before) / (time.monotonic() - self._since)


def read(url: str, reading: Reading, seed: int) -> list[Answer]:
    """Ask for one answer after another; no two prompts share a beginning."""
    target = Target(f"{url}/v1", "chat")
    plan = Plan(streams=1, tokens=reading.tokens, each=reading.answers)

    async def ask_all() -> list[Answer]:
        answers = []
        for prompt in plan.prompts(seed)[0]:
            answers.append(await ask(target, plan.fields(prompt)))
            await asyncio.sleep(reading.pause)
        return answers

    return uvloop.run(ask_all())


def measure(models: str, share: float, jobs: int, seconds: float, reading: Reading) -> Side:
    with running(models, OMINIX_BATCH_SHARE=f"{share}", OMINIX_DRAIN_TIMEOUT="1") as system:
        recordings = Recordings(system.url)
        recordings.fill(1)
        while not recordings.ended():
            time.sleep(0.1)
        read(system.url, msgspec.structs.replace(reading, answers=1), seed=-1)
        idle = read(system.url, reading, seed=0)
        recordings.fill(jobs)
        time.sleep(WARM_UP)
        rate = Rate(recordings)
        time.sleep(seconds)
        alone = rate.now()
        recordings.fill(jobs)
        rate = Rate(recordings)
        beside = read(system.url, reading, seed=1)
        kept = rate.now()
    errors = [answer.error for answer in idle + beside if answer.error]
    return Side(share, between(idle), between(beside), first(idle), first(beside), alone, kept, errors)


def between(answers: list[Answer]) -> Spread:
    return Spread.of(gap * 1e3 for answer in answers for gap in gaps(answer))


def first(answers: list[Answer]) -> Spread:
    return Spread.of((answer.arrivals[0] - answer.sent) * 1e3 for answer in answers if answer.arrivals)


def table(sides: list[Side]) -> Table:
    shown = Table("share", "", "idle", "beside", "ratio", title="chat in ms, transcriptions a second")
    for side in sides:
        rows = [
            ("between tokens, p50", side.idle.p50, side.beside.p50),
            ("between tokens, p95", side.idle.p95, side.beside.p95),
            ("between tokens, p99", side.idle.p99, side.beside.p99),
            ("first token, p50", side.first_idle.p50, side.first_beside.p50),
            ("transcriptions", side.alone, side.kept),
        ]
        for name, one, other in rows:
            ratio = f"{other / one:.2f}" if one else "-"
            shown.add_row(f"{side.share:g}", name, f"{one:.4g}", f"{other:.4g}", ratio)
        shown.add_section()
    return shown


def main(
    chat: Annotated[Path, typer.Option(help="The chat model's folder.")] = Path(
        "~/.ominix/models/smollm2-135m"
    ),
    speech: Annotated[Path, typer.Option(help="The speech model's folder.")] = Path(
        "~/.ominix/models/whisper-tiny.en"
    ),
    jobs: Annotated[int, typer.Option(help="Transcriptions in the batch lane.")] = 100,
    rows: Annotated[int, typer.Option(help="max_concurrency of the speech model.")] = 8,
    answers: Annotated[int, typer.Option(help="Answers that are read, idle and beside.")] = 6,
    tokens: Annotated[int, typer.Option(help="Tokens of each.")] = 128,
    pause: Annotated[float, typer.Option(help="Seconds that a reader pauses between two answers.")] = 2.0,
    seconds: Annotated[float, typer.Option(help="How long the transcriptions run alone.")] = 30.0,
    share: Annotated[float, typer.Option(help="OMINIX_BATCH_SHARE of the first system.")] = 0.15,
    without: Annotated[bool, typer.Option(help="Measure a system without priority as well.")] = True,
    json: Annotated[Path | None, typer.Option(help="Write the figures here as well.")] = None,
) -> None:
    """Measure a chat and batch transcriptions beside each other."""
    models = MODELS.format(chat=chat.expanduser(), speech=speech.expanduser(), rows=rows)
    reading = Reading(answers, tokens, pause)
    began = time.monotonic()
    shares = [share, 1.0] if without else [share]
    sides = []
    console = Console(width=110)
    console.print(f"{answers} answers of {tokens} tokens, {pause:g} s between; {jobs} transcriptions")
    for each in shares:
        sides.append(measure(models, each, jobs, seconds, reading))
        console.print(table(sides[-1:]))
    console.print(f"{time.monotonic() - began:.0f} s in all")
    errors = [error for side in sides for error in side.errors]
    if errors:
        console.print(f"{len(errors)} ERRORS: {errors[0]}")
    if json:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(sides)))
    raise typer.Exit(1 if errors else 0)


if __name__ == "__main__":
    typer.run(main)
