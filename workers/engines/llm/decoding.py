"""Decoding: the next token of every row in one call of the model.

A step gives out the tokens that the step before has chosen, while the device already computes the next:
values are only waited for when that work is queued. A row that obeys a grammar needs them earlier, to
know what may follow: then a second thread fills the masks while the model's call goes to the device and
runs there, and only the choice waits for them.

With a draft model a step of few rows is a leap: the draft guesses some tokens ahead, the model reads them
in one call, and as many count as it would have chosen itself. Guesses and choices use the same noise, so
the text is the one without a draft (exact-match verification, as in mlx-lm's speculative_generate_step).
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import mlx.core as mx

from workers.engines.llm import caches
from workers.engines.llm.caches import Cache
from workers.engines.llm.constraint import Masks, masked, on_device
from workers.engines.llm.models import Models
from workers.engines.llm.reading import Read
from workers.engines.llm.said import Scored, Token
from workers.engines.llm.sampling import Bending, Sampler, Scores, score
from workers.engines.llm.sequence import Sample, Sequence

LEAPERS = 4  # rows: with more, the device has better to do than to verify guesses

Value = tuple[int, Scored | None]


class Row:
    """A choice that is being generated."""

    def __init__(self, sequence: Sequence, sample: Sample, cached: int) -> None:
        self.sequence = sequence
        self.sample = sample
        self.constraint = sample.constraint
        self.cached = cached  # tokens of its prompt that were not computed for it
        self.chosen = 0  # tokens, the last of which is not told yet
        self.said = 0
        self.fresh = True
        self.fed: list[int] = []  # tokens behind the prompt's that are in the cache
        self.pending: Scored | None = None  # of the last one chosen, if it is known already

    @property
    def job_id(self) -> str:
        return self.sequence.job_id

    @property
    def first(self) -> bool:
        """Of the choices that continue its prompt."""
        return self.sample is self.sequence.samples[0] and not self.sequence.again

    @property
    def computed(self) -> int:
        """Tokens of the prompt and the answer that were computed for it."""
        return len(self.sequence.tokens) + len(self.fed) - self.cached


class Said(NamedTuple):
    """A row's next tokens."""

    row: Row
    tokens: list[Token]


class Chosen(NamedTuple):
    """The last tokens [rows] of a step, still being computed, and the scores of some rows'."""

    tokens: mx.array
    scores: Scores | None = None
    scored: list[Row] = []


class Decoding:
    """Rows of one cache. `ends` are the tokens that end an answer, `guesses` those of a leap."""

    def __init__(self, models: Models, vocabulary: int, ends: Iterable[int], guesses: int = 0) -> None:
        self._models, self._vocabulary = models, vocabulary
        self._ends = frozenset(ends)
        self._guesses = guesses if models.draft else 0
        self._cache: Cache = []
        self._masks = Masks(vocabulary)
        self._filling = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._bending = Bending(vocabulary)
        self._chosen = Chosen(mx.array([], dtype=mx.uint32))
        self._sampler = Sampler([])
        self.rows: list[Row] = []

    def join(self, read: Read) -> None:
        """Rows for every sample of prompts that are read but for their last token; none where only the
        reading was asked for."""
        answered = [(n, each) for n, each in enumerate(read.prompts) if each.sequence.max_tokens]
        indices = [n for n, prompt in answered for _ in prompt.sequence.samples]
        if not indices:
            return
        every = indices == list(range(len(read.prompts)))
        cache = read.cache if every else caches.take(read.cache, indices)
        self._cache = caches.extend(self._cache, cache)
        rows = [
            Row(prompt.sequence, sample, prompt.cached)
            for _, prompt in answered
            for sample in prompt.sequence.samples
        ]
        self._bending.join([row.sample.sampling for row in rows], [row.sequence.tokens for row in rows])
        last = mx.array([row.sequence.tokens[-1] for row in rows], dtype=mx.uint32)
        self._chosen = self._chosen._replace(tokens=mx.concatenate([self._chosen.tokens, last]))
        self.rows += rows
        self._settle()

    def keep(self, rows: list[int]) -> None:
        """Only the rows with these indices."""
        if len(rows) == len(self.rows):
            return
        self.rows = [self.rows[row] for row in rows]
        caches.filter_rows(self._cache, rows)
        self._bending.keep(rows)
        self._chosen = self._chosen._replace(tokens=self._chosen.tokens[mx.array(rows, dtype=mx.int32)])
        self._settle()

    def extract(self, row: int) -> tuple[list[int], Cache]:
        """The tokens that a row's cache stands for, and that cache."""
        return self.rows[row].sequence.tokens + self.rows[row].fed, caches.extract(self._cache, row)

    def tidy(self) -> None:
        """Give up the padding that all rows have, which leaps leave behind, and compute what no layer asks
        for, such as the offset of one without positions: with every step it grows into a longer graph."""
        if self.rows:
            caches.filter_rows(self._cache, list(range(len(self.rows))))
            mx.async_eval([layer.state for layer in self._cache])

    def step(self) -> list[Said]:
        """Choose the next token of every row, and tell those chosen before."""
        if self._may_leap():
            return self._leap()
        before = self._chosen
        logits = self._models.feed(before.tokens[:, None], self._cache)[:, -1, :]
        if any(row.constraint for row in self.rows):
            values = before.tokens.tolist()
            mask = self._filling.submit(self._mask, values)
            mx.async_eval(logits)
            self._choose(logits, before.tokens, mask.result())
        else:
            self._choose(logits, before.tokens)
            values = before.tokens.tolist()
        return self._tell([[value] for value in self._pair(values, before)])

    def _settle(self) -> None:
        self._sampler = Sampler([row.sample.sampling for row in self.rows])

    def _mask(self, values: list[int]) -> mx.array | None:
        """In the second thread: no MLX but the copy of a mask, which takes a millisecond on some devices."""
        for row, value in zip(self.rows, values, strict=True):
            if row.constraint and row.chosen:
                row.constraint.accept(value)
        mask = self._masks.fill([row.constraint for row in self.rows])
        return None if mask is None else on_device(mask)

    def _choose(self, logits: mx.array, last: mx.array, mask: mx.array | None = None) -> None:
        bent = self._bending(logits, last, [row.chosen > 0 for row in self.rows])
        tokens = self._sample(bent if mask is None else masked(bent, mask))
        scores, scored = self._score(logits, tokens)
        self._chosen = Chosen(tokens, scores, scored)
        state = [*(scores or ()), *self._bending.state, *self._models.draft_state(self._cache)]
        mx.async_eval(tokens, state)
        for row in self.rows:
            row.chosen += 1

    def _sample(self, logits: mx.array, ahead: int = 0) -> mx.array:
        chosen = self._sampler(logits, [row.chosen + ahead for row in self.rows])
        return self._models.agree(chosen)

    def _score(self, logits: mx.array, tokens: mx.array) -> tuple[Scores | None, list[Row]]:
        wanting = [index for index, row in enumerate(self.rows) if row.sequence.top is not None]
        if not wanting:
            return None, []
        some = mx.array(wanting, dtype=mx.int32)
        rows = [self.rows[index] for index in wanting]
        return score(logits[some], tokens[some], max(row.sequence.top for row in rows)), rows

    def _pair(self, values: list[int], chosen: Chosen) -> list[Value]:
        """Each row's value with its scores."""
        scored = {id(row): row.pending for row in self.rows}
        if chosen.scores:
            told = chosen.scores.tell([row.sequence.top for row in chosen.scored])
            scored |= {id(row): each for row, each in zip(chosen.scored, told, strict=True)}
        for row in self.rows:
            row.pending = None
        return [(value, scored[id(row)]) for row, value in zip(self.rows, values, strict=True)]

    def _tell(self, values: list[list[Value]]) -> list[Said]:
        """The first value of a row that has just joined is its prompt's last token."""
        said = []
        for row, each in zip(self.rows, values, strict=True):
            if row.fresh:
                row.fresh, each = False, each[1:]
            if each:
                said.append(self._said(row, each))
        return said

    def _said(self, row: Row, values: list[Value]) -> Said:
        row.fed += [value for value, _ in values]
        tokens: list[Token] = []
        for value, scored in values:
            tokens += self._token(row, value, scored)
            if tokens[-1].finish_reason:
                break
        return Said(row, tokens)

    def _token(self, row: Row, value: int, scored: Scored | None) -> list[Token]:
        row.said += 1
        choice = row.sample.choice
        if value in self._ends:
            return [Token(value, "stop", choice, scored)]
        if row.constraint and row.constraint.ended:
            return [Token(value, None, choice, scored), Token(None, "stop", choice)]
        ended = "length" if row.said >= row.sequence.max_tokens else None
        return [Token(value, ended, choice, scored)]

    # --- leaps

    def _may_leap(self) -> bool:
        """Grammars and penalties depend on every token before: those rows go step by step."""
        if not self._guesses or len(self.rows) > LEAPERS:
            return False
        return not any(row.constraint or row.sample.sampling.remembers for row in self.rows)

    def _leap(self) -> list[Said]:
        before = self._chosen
        guesses = self._guess(before.tokens)
        fed = mx.concatenate([before.tokens[:, None], guesses], axis=1)
        logits = self._models.verify(fed, self._cache)
        steps = [
            self._choose_at(logits[:, ahead], before.tokens, ahead) for ahead in range(self._guesses + 1)
        ]
        chosen = mx.stack([step.tokens for step in steps], axis=1)
        right = mx.cumprod((chosen[:, :-1] == guesses).astype(mx.int32), axis=1).sum(axis=1)
        last = mx.take_along_axis(chosen, right[:, None], axis=1)[:, 0]
        mx.async_eval(last, right, self._models.draft_state(self._cache))
        first = self._pair(before.tokens.tolist(), before)
        pairs = [self._pair(step.tokens.tolist(), step) for step in steps]
        counts = right.tolist()
        caches.cut(self._cache, [self._guesses - count for count in counts])
        self._chosen = Chosen(last.astype(mx.uint32))
        values = []
        for row, (each, count) in enumerate(zip(self.rows, counts, strict=True)):
            each.chosen += count + 1
            each.pending = pairs[count][row][1]
            values.append([first[row], *(pairs[ahead][row] for ahead in range(count))])
        return self._tell(values)

    def _guess(self, last: mx.array) -> mx.array:
        """[rows, guesses]; the draft model has then been fed the last of them too."""
        guesses = []
        for ahead in range(self._guesses):
            logits = self._bending(self._models.guess(last, self._cache, self._vocabulary), last, [])
            last = self._sample(logits, ahead)
            guesses.append(last)
        self._models.guess(last, self._cache, self._vocabulary)
        return mx.stack(guesses, axis=1)

    def _choose_at(self, logits: mx.array, last: mx.array, ahead: int) -> Chosen:
        tokens = self._sample(self._bending(logits, last, []), ahead)
        return Chosen(tokens, *self._score(logits, tokens))
