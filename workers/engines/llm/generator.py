"""Continuous batching: prompts are read in pieces and answers decoded side by side, over mlx-lm's caches.

Every step decodes one token of every row and then reads one piece of every prompt that is being read.
So a long prompt holds up the answers that are streaming by one piece a step, never longer; how many
prompts are read together follows from what the device has been seen to read in STALL seconds.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

import mlx.core as mx

from workers import memory
from workers.engines.llm.decoding import Decoding, Row, Said
from workers.engines.llm.models import Models
from workers.engines.llm.options import Options
from workers.engines.llm.prefixes import Prefixes
from workers.engines.llm.reading import Prompt, Read, Reading
from workers.engines.llm.sequence import Sequence

STALL = 0.25  # seconds that reading prompts may hold up answers which are already streaming
CPU_STALL = 1.0  # the same where a step without any reading takes 0.1 s
SHARED = 128  # tokens: a prompt waits for one that is being read and begins with so many of its own
TIDY = 512  # steps


class Generator:
    """`slots` rows at once. In the engine thread; an exception leaves it in no state to go on from."""

    def __init__(
        self,
        models: Models,
        vocabulary: int,
        ends: Iterable[int],
        slots: int,
        options: Options,
        prefixes: Prefixes,
    ) -> None:
        self.slots = slots
        self._prefixes = prefixes
        self._pace = Pace(options)
        self._waiting: dict[str, deque[Sequence]] = {}
        self._reading = Reading(models, options.prefill_step, prefixes)
        self._decoding = Decoding(models, vocabulary, ends, options.draft_tokens)
        self._steps = 0

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._reading.prompts or self._decoding.rows)

    @property
    def rows(self) -> list[Row]:
        """What is being decoded."""
        return self._decoding.rows

    def add(self, sequence: Sequence) -> None:
        self._waiting.setdefault(sequence.job_id, deque()).append(sequence)

    def step(self) -> tuple[list[Prompt], list[Said]]:
        """Prompts that are read now, and the tokens of rows that have any."""
        said = self._decoding.step() if self._decoding.rows else []
        read = self._admit()
        if self._reading.prompts:
            read += self._read()
        for each in read:
            self._decoding.join(each)
        self._steps += 1
        if self._steps % TIDY == 0:
            self._decoding.tidy()
            mx.clear_cache()
        return [prompt for each in read for prompt in each.prompts], said

    def end(self, rows: Iterable[Row]) -> None:
        """Forget rows, and keep what was computed for them, of a prompt's choices for the first: each would
        have the prompt in it."""
        gone = set(map(id, rows))
        for index, row in enumerate(self.rows):
            if id(row) in gone and row.first and self._prefixes.worth(row.computed):
                self._prefixes.keep(*self._decoding.extract(index))
        self._keep(lambda row: id(row) not in gone)

    def remove(self, job_id: str) -> None:
        """Forget a job, wherever it is; any other id is ignored."""
        self._waiting.pop(job_id, None)
        self._reading.remove(job_id)
        self._keep(lambda row: row.job_id != job_id)

    def _keep(self, wanted: Callable[[Row], bool]) -> None:
        self._decoding.keep([index for index, row in enumerate(self.rows) if wanted(row)])

    def _admit(self) -> list[Read]:
        """Begin to read waiting prompts while the step's budget and the slots last."""
        reading, found, held = list(self._reading.prompts), [], set()
        free = self.slots - len(self.rows) - sum(len(prompt.sequence.samples) for prompt in reading)
        while (job_id := self._next(reading, held)) is not None:
            each = self._reading.find(self._waiting[job_id][0])
            [prompt] = each.prompts
            lefts = [other.left for other in reading]
            samples = len(prompt.sequence.samples)
            if samples > free or not self._pace.fits(prompt.left, lefts):
                break
            if self._prefixes.fits(prompt.left + prompt.at) and prompt.shares(reading, SHARED):
                held.add(job_id)
                continue
            free -= samples
            self._take(job_id)
            found.append(each)
            reading += [prompt] if prompt.left else []
        return self._reading.join(found)

    def _next(self, reading: list[Prompt], held: set[str]) -> str | None:
        """The job whose turn it is: interactive before batch, then that which runs least, then the oldest.
        So a job of a thousand prompts leaves room for the others."""
        waiting = [job_id for job_id in self._waiting if job_id not in held]
        running = Counter([row.job_id for row in self.rows] + [each.sequence.job_id for each in reading])
        turn = {job: (self._waiting[job][0].lane == "batch", running[job]) for job in waiting}
        return min(turn, key=turn.__getitem__, default=None)

    def _take(self, job_id: str) -> None:
        self._waiting[job_id].popleft()
        if not self._waiting[job_id]:
            del self._waiting[job_id]

    def _read(self) -> list[Read]:
        before = sum(prompt.left for prompt in self._reading.prompts)
        began = time.perf_counter()
        read = self._reading.read()
        took = time.perf_counter() - began
        self._pace.measure(before - sum(prompt.left for prompt in self._reading.prompts), took)
        return read


class Pace:
    """How many tokens of prompts are read in a step, their padding to equal lengths among them."""

    def __init__(self, options: Options) -> None:
        self._step = options.prefill_step
        self._fixed = options.prefill_budget
        self._stall = STALL if memory.compact() else CPU_STALL
        self._speed = 0.0  # tokens a second

    @property
    def budget(self) -> int:
        return self._fixed or max(self._step, int(self._speed * self._stall))

    def fits(self, tokens: int, others: list[int]) -> bool:
        """Whether a prompt of `tokens` may be read together with others; alone it always may."""
        if not others or not tokens:
            return True
        longest = min(max(tokens, *others), self._step)
        return (len(others) + 1) * longest <= self.budget

    def measure(self, tokens: int, seconds: float) -> None:
        """What a step has read, and how long that took. Small steps are slow, and say nothing; one that
        took too long may have compiled something, so it halves the speed at most."""
        speed = tokens / seconds
        if seconds > self._stall:
            self._speed = max(speed, self._speed / 2)
        else:
            self._speed = max(speed, self._speed)
