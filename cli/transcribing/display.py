"""What a batch shows while it runs: bars on a terminal, lines anywhere else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.cells import cell_len, chop_cells
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.transcribing.recording import Recording, Tally

ROWS = 12  # files shown at once, at most
BAR = 24  # cells, at most
STATE = 18  # cells of "waiting, place 32"
LABEL = 60  # cells, at most


class Lines:
    """One line for each file that has ended."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._console = console
        self._tally = tally

    @contextmanager
    def shown(self) -> Iterator[None]:
        yield

    def say(self, sentence: str) -> None:
        say(self._console, sentence)

    def ended(self, recording: Recording) -> None:
        outcome = f"failed: {recording.error}" if recording.error else f"-> {short(recording.target)}"
        self.say(f"[{self._tally.ended}/{self._tally.total}] {recording.label} {outcome}")


class Bars:
    """A bar for each file in work and one for the whole, until the batch ends."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._console = console
        self._tally = tally

    @contextmanager
    def shown(self) -> Iterator[None]:
        with Live(get_renderable=self.picture, console=self._console, transient=True):
            yield

    def say(self, sentence: str) -> None:
        say(self._console, sentence)

    def ended(self, recording: Recording) -> None:
        """Its bar goes; the summary names what failed."""

    def picture(self) -> RenderableType:
        """The files in work before those that wait, as many as fit, and the whole below them."""
        every = sorted(tuple(self._tally.open), key=lambda each: each.is_waiting)  # stable: waiting last
        shown = every[: max(1, min(ROWS, self._console.height - 4))]
        bar = min(BAR, self._console.width // 4)
        width = max(10, min(LABEL, self._console.width - bar - STATE - 4))
        table = Table.grid(padding=(0, 2, 0, 0))
        for recording in shown:
            label, state = Text(fitted(recording.label, width)), _state(recording)
            table.add_row(label, ProgressBar(1.0, recording.progress, width=bar), state)
        if hidden := len(every) - len(shown):
            table.add_row(Text(f"and {hidden} more", style="dim"))
        ended = self._tally.ended + sum(recording.progress for recording in every)
        table.add_row(
            Text(f"{self._tally.ended}/{self._tally.total} files", style="bold"),
            ProgressBar(self._tally.total, ended, width=bar),
            Text(", ".join(_facts(self._tally))),
        )
        return table


def say(console: Console, sentence: str) -> None:
    console.print(sentence, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(path: Path) -> str:
    """A path as one reads it from here, without what a terminal would obey."""
    below = os.path.relpath(path)
    text = str(path) if below.startswith(os.pardir + os.sep) else below
    text = os.fsencode(text).decode(errors="replace")
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def fitted(label: str, width: int) -> str:
    """The end of a label that is too long: the name matters more than the folders."""
    if cell_len(label) <= width:
        return label
    return "…" + chop_cells(label[::-1], width - 1)[0][::-1]


def _state(recording: Recording) -> Text:
    if recording.job is None:
        return Text("sending", style="dim")
    if recording.is_waiting:
        return Text(f"waiting, place {recording.place}" if recording.place else "waiting", style="dim")
    return Text(f"{recording.progress:4.0%}")


def _facts(tally: Tally) -> list[str]:
    facts = [f"{len(tally.failed)} failed"] if tally.failed else []
    if tally.speed:
        facts.append(f"{tally.speed:.1f}x")
    return [*facts, clock(tally.seconds)]
