"""Whose inputs are computed next, and which of them side by side. No model in it."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from workers.memory import compact
from workers.speed import Speed

STALL = 0.1  # seconds that a step may take: so long waits whoever comes while it runs
CPU_STALL = 0.25  # the same where that is a hundred short texts
LEAST, MOST = 64, 32_768  # tokens of a step, whatever the device's speed
FORWARD = 50  # a batch of its own costs as much as this part of a step's tokens
LENGTHS = sorted(step << octave for step in (16, 20, 24, 28) for octave in range(16))


class Row(NamedTuple):
    """An input that is to be computed; `alone` if a batch that it was in has failed."""

    job_id: str
    index: int
    tokens: Sequence[int]
    alone: bool = False


class Line:
    """The inputs of one job that are left, the longest last."""

    def __init__(self, rows: Iterable[Row], urgent: bool) -> None:
        self.rows = sorted(rows, key=lambda row: len(row.tokens))
        self.urgent = urgent


class Lineup:
    """The jobs in flight, those served longest ago first. Every job gets its turn in every step, input by
    input, as long as there is room; batch jobs get what interactive ones leave, and one input in any case."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, job_id: str, rows: Iterable[Row], urgent: bool) -> None:
        self._lines[job_id] = Line(rows, urgent)

    def remove(self, job_id: str) -> None:
        self._lines.pop(job_id, None)

    def put_back(self, rows: Iterable[Row]) -> None:
        """Rows that have failed together, and are to be computed one by one."""
        for row in rows:
            self._lines[row.job_id].rows.append(row._replace(alone=True))

    def finished(self) -> list[str]:
        """The jobs of which nothing is left."""
        return [job_id for job_id, line in self._lines.items() if not line.rows]

    def take(self, budget: int) -> list[Row]:
        """The rows of one step: about `budget` tokens, what pads them included."""
        taken: list[Row] = []
        room = self._serve(taken, budget, 0, [line for line in self._lines.values() if line.urgent])
        self._serve(taken, room, 1, [line for line in self._lines.values() if not line.urgent])
        for job_id in dict.fromkeys(row.job_id for row in taken):
            self._lines[job_id] = self._lines.pop(job_id)
        return taken

    def _serve(self, taken: list[Row], room: int, least: int, lines: list[Line]) -> int:
        """Take from each line in turn while there is room, `least` rows anyway. Returns the room left."""
        turns = deque(line for line in lines if line.rows)
        while turns and (room > 0 or least > 0):
            line = turns.popleft()
            taken.append(line.rows.pop())
            room -= padded(len(taken[-1].tokens))
            least -= 1
            if line.rows:
                turns.append(line)
        return room


def padded(tokens: int) -> int:
    """The length that an input is padded to: there are few, so that kernels and buffers are used again."""
    return LENGTHS[bisect_left(LENGTHS, tokens)]


def batches(rows: Iterable[Row], forward: int) -> Iterator[list[Row]]:
    """Rows to be computed side by side, of about one length: a batch ends where shorter rows are better off
    in one of their own, which costs as much as `forward` tokens."""
    ordered = sorted(rows, key=lambda row: (row.alone, len(row.tokens)), reverse=True)
    batch: list[Row] = []
    for place, row in enumerate(ordered):
        if batch and (batch[0].alone or _spared(batch[0], row) * (len(ordered) - place) > forward):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _spared(longest: Row, row: Row) -> int:
    return padded(len(longest.tokens)) - padded(len(row.tokens))


class Budget:
    """How many tokens a step may compute: `fixed`, or if that is 0 what the device was seen to do in STALL
    (CPU_STALL) seconds."""

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed
        self.speed = Speed(STALL if compact() else CPU_STALL)

    @property
    def tokens(self) -> int:
        return self._fixed or min(MOST, max(LEAST, self.speed.tokens))

    @property
    def forward(self) -> int:
        """What a batch costs beside its tokens, in tokens."""
        return self.tokens // FORWARD
