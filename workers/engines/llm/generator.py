"""Continuous batching: prompts are read in pieces and answers decoded side by side, over mlx-lm's caches.

Every step decodes one token of every row and then reads one piece of every prompt that is being read.
So a long prompt holds up the answers that are streaming by one piece a step, never longer; how many
prompts are read together follows from what the device has been seen to read in STALL seconds.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable

import mlx.core as mx
import msgspec

from workers import memory
from workers.engines.llm.decoding import Decoding, Row, Said
from workers.engines.llm.models import Models
from workers.engines.llm.options import Options
from workers.engines.llm.prefixes import Prefixes
from workers.engines.llm.reading import Prompt, Read, Reading
from workers.engines.llm.sequence import Sequence
from workers.engines.llm.waiting import Waiting
from workers.speed import Speed

STALL = 0.25  # seconds that reading prompts may hold up answers which are already streaming
CPU_STALL = 1.0  # the same where a step without any reading takes 0.1 s
SHARED = 128  # tokens: a prompt waits for one that is being read and begins with so many of its own
LOOKS = 8  # so many that do not fit are looked at in a step for a prompt that does
LEAST, MUCH = 32, 4  # tokens of the shortest piece; by how many times one prompt is much shorter than another
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
        self.pace = Pace(options)
        self._waiting = Waiting()
        self._reading = Reading(models, prefixes)
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
        self._waiting.add(sequence)

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
        self._waiting.remove(job_id)
        self._reading.remove(job_id)
        self._keep(lambda row: row.job_id != job_id)

    def _keep(self, wanted: Callable[[Row], bool]) -> None:
        self._decoding.keep([index for index, row in enumerate(self.rows) if wanted(row)])

    def _admit(self) -> list[Read]:
        """Begin to read waiting prompts while the step's budget and the slots last."""
        reading, found = list(self._reading.prompts), []
        running = Counter([row.job_id for row in self.rows] + [each.sequence.job_id for each in reading])
        free = self.slots - len(self.rows) - sum(len(prompt.sequence.samples) for prompt in reading)
        held, passed = set(), set()  # jobs that wait for what is being read, and those that do not fit
        while free and len(passed) < LOOKS and (first := self._waiting.next(running, held | passed)):
            sequence = self._part(first, free)
            if len(sequence.samples) > free:
                break
            each = self._reading.find(sequence)
            [prompt] = each.prompts
            if self._prefixes.fits(prompt.left + prompt.at) and prompt.shares(reading, SHARED):
                held.add(sequence.job_id)
            elif not self.pace.fits(prompt.left, [other.left for other in reading], overtaking=bool(passed)):
                passed.add(sequence.job_id)
            else:
                free -= len(sequence.samples)
                running[sequence.job_id] += 1
                self._waiting.take(sequence)
                found.append(each)
                reading += [prompt] if prompt.left else []
        return self._reading.join(found)

    def _part(self, sequence: Sequence, free: int) -> Sequence:
        """As many of its choices as there are slots, if the prompt will be known to the others. Scores of a
        prompt come before all answers to it."""
        known = self._prefixes.fits(len(sequence.tokens)) or len(sequence.tokens) <= SHARED
        if sequence.score_prompt or not known:
            return sequence
        return msgspec.structs.replace(sequence, samples=sequence.samples[:free])

    def _read(self) -> list[Read]:
        before = sum(prompt.left for prompt in self._reading.prompts)
        began = time.perf_counter()
        read = self._reading.read(self.pace.piece(len(self._reading.prompts)))
        took = time.perf_counter() - began
        self.pace.speed.measure(before - sum(prompt.left for prompt in self._reading.prompts), took)
        return read


class Pace:
    """How many tokens of prompts are read in a step, their padding to equal lengths among them."""

    def __init__(self, options: Options) -> None:
        self._step = options.prefill_step
        self.fixed = options.prefill_budget  # 0: as measured
        self.speed = Speed(STALL if memory.compact() else CPU_STALL)

    @property
    def budget(self) -> int:
        return self.fixed or max(self._step, self.speed.tokens)

    def fits(self, tokens: int, others: list[int], overtaking: bool = False) -> bool:
        """Whether a prompt of `tokens` may be read together with others; alone it always may, and beside
        much longer ones, whose pieces get shorter then. One that is `overtaking` has to be so short."""
        if not others or not tokens:
            return True
        if tokens * MUCH <= min(others) and self.budget // (len(others) + 1) >= LEAST:
            return True
        longest = min(max(tokens, *others), self._step)
        return not overtaking and (len(others) + 1) * longest <= self.budget

    def piece(self, prompts: int) -> int:
        """The most tokens that a step reads of each."""
        return min(self._step, max(self.budget // prompts, LEAST))
