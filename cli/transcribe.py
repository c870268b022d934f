"""`ominix transcribe`: a folder of recordings becomes a folder of transcripts."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.transcribing import targets
from cli.transcribing.batch import Batch
from cli.transcribing.display import Bars, Lines, clock, say, short
from cli.transcribing.recording import Recording, Tally
from cli.transcribing.server import Server
from cli.transcribing.sources import Problem, find

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
RESPONSE_FORMAT = {"txt": "text"}  # where it has another name
ENDING = {"verbose_json": "json"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for beside the paths."""

    url: str
    format: str = "txt"
    out: Path | None = None
    language: str | None = None
    model: str | None = None
    prompt: str | None = None
    words: bool = False
    translate: bool = False
    force: bool = False
    api_key: str | None = None

    @property
    def endpoint(self) -> str:
        return TRANSLATIONS if self.translate else TRANSCRIPTIONS

    @property
    def ending(self) -> str:
        """Of a result's name. A translation does not take the transcript's place."""
        return f"{'.en' if self.translate else ''}.{ENDING.get(self.format, self.format)}"

    def fields(self, model: str) -> dict[str, Any]:
        """Of a request, beside its file."""
        fields = {
            "endpoint": self.endpoint,
            "model": model,
            "response_format": RESPONSE_FORMAT.get(self.format, self.format),
            "language": self.language,
            "prompt": self.prompt,
            "timestamp_granularities[]": ["word", "segment"] if self.words else None,
        }
        return {name: value for name, value in fields.items() if value is not None}


def transcribe(paths: Sequence[str], options: Options) -> int:
    """Write a result for each recording that has none yet. Returns the exit status; raises OminixError
    if there is no such server or model."""
    console = Console(stderr=True, highlight=False)
    sources, problems = find(paths)
    for problem in problems:
        say(console, f"{problem.path}: {problem.reason}")
    out = Path(os.path.abspath(options.out)) if options.out else None
    places = targets.assign(sources, options.ending, out)
    every = [Recording(s.path, place, short(s.path)) for s, place in zip(sources, places, strict=True)]
    wanted = [r for r in every if options.force or not targets.is_done(r.source, r.target)]
    tally = Tally(len(wanted))
    try:
        if wanted:
            asyncio.run(_run(wanted, options, tally, console))
    except KeyboardInterrupt:
        say(console, _interrupted(tally))
        return 130
    _sum_up(console, tally, len(every) - len(wanted), problems)
    return 1 if tally.failed or problems else 0


async def _run(wanted: Sequence[Recording], options: Options, tally: Tally, console: Console) -> None:
    display = (Bars if console.is_terminal else Lines)(console, tally)
    async with Server(options.url, options.api_key, display.say) as server:
        fields = options.fields(await server.model(options.model, options.endpoint))
        with display.shown():
            await Batch(server, fields, options.force, tally, display).run(wanted)


def _interrupted(tally: Tally) -> str:
    left = tally.total - tally.ended
    there = sum(recording.job is not None for recording in tally.open)
    goes_on = f", {there} of them with the server, which goes on" if there else ""
    return f"Stopped with {left} of {tally.total} left{goes_on}. The same command picks them up."


def _sum_up(console: Console, tally: Tally, skipped: int, problems: Sequence[Problem]) -> None:
    failed = [f"{recording.label}: {recording.error}" for recording in tally.failed]
    failed += [f"{problem.path}: {problem.reason}" for problem in problems]
    counts = [f"{tally.done} done"]
    if skipped:
        counts.append(f"{skipped} skipped (done before; --force does them again)")
    counts.append(f"{len(failed)} failed")
    speed = f" ({tally.speed:.1f}x)" if tally.speed else ""
    say(console, f"{', '.join(counts)}, in {clock(tally.seconds)}{speed}{':' if failed else '.'}")
    for line in failed:
        say(console, f"  {line}")
