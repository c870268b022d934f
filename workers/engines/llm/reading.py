"""Reading prompts: several at once, a piece of each in a step."""

from collections.abc import Iterable
from typing import NamedTuple

import mlx.core as mx

from workers.engines.llm import caches
from workers.engines.llm.caches import Cache
from workers.engines.llm.models import Models
from workers.engines.llm.prefixes import Prefixes
from workers.engines.llm.said import Scored
from workers.engines.llm.sampling import score
from workers.engines.llm.sequence import Sequence

ALONE = 128  # tokens of a prompt that are kept before its answer is there
FIRST = Scored(None, [])  # nothing comes before a prompt's first token


class Prompt:
    """A sequence whose prompt is being read: `at` tokens are in its row of the cache.

    `stops` are lengths at which the cache must be kept, None where it can be cut back to any.
    """

    def __init__(self, sequence: Sequence, at: int, stops: list[int] | None) -> None:
        self.sequence = sequence
        self.at = self.cached = at
        self.scored = [FIRST]
        self._stops = stops

    @property
    def left(self) -> int:
        """Tokens that are still to be read; the last one is decoded."""
        return len(self.sequence.tokens) - 1 - self.at

    @property
    def at_boundary(self) -> bool:
        return self.at in (self._stops or ())

    def shares(self, others: Iterable["Prompt"], tokens: int) -> bool:
        """Whether one of `others` is just being read and begins with `tokens` more of this one's, which can
        then be taken from it."""
        end = self.at + tokens if self._stops is None else self._next_stop(len(self.sequence.tokens))
        beginning = self.sequence.tokens[:end]
        if self.sequence.score_prompt or not self.at + tokens <= end < len(self.sequence.tokens):
            return False
        return any(other.sequence.tokens[:end] == beginning for other in others)

    def piece(self, most: int) -> list[int]:
        last = len(self.sequence.tokens) - 1
        return self.sequence.tokens[self.at : min(self.at + most, self._next_stop(last))]

    def _next_stop(self, last: int) -> int:
        return min((stop for stop in self._stops or () if self.at < stop < last), default=last)


class Read(NamedTuple):
    """Prompts that are read, but for their last tokens, and their rows of a cache."""

    prompts: list[Prompt]
    cache: Cache


class Reading:
    """The prompts that are being read, as rows of one cache."""

    def __init__(self, models: Models, prefixes: Prefixes) -> None:
        self._models = models
        self._prefixes = prefixes
        self._cache: Cache = []
        self.prompts: list[Prompt] = []

    def find(self, sequence: Sequence) -> Read:
        """A prompt and the cache of as much of it as is known."""
        cache, at = self._prefixes.nearest(sequence)
        stops = sequence.boundaries if self._prefixes.needs_boundaries else None
        return Read([Prompt(sequence, at, stops)], cache)

    def join(self, found: list[Read]) -> list[Read]:
        """Begin to read; what is read already, or has one token only, comes back."""
        if begun := [each for each in found if each.prompts[0].left]:
            self._cache = caches.extend(self._cache, caches.merge([each.cache for each in begun]))
            self.prompts += [each.prompts[0] for each in begun]
        ready = [each for each in found if not each.prompts[0].left]
        return [Read([prompt], caches.merge([cache])) for [prompt], cache in ready]

    def read(self, most: int) -> list[Read]:
        """A piece of every prompt, of `most` tokens at most; those that end with it come back."""
        pieces = [prompt.piece(most) for prompt in self.prompts]
        if self._models.rows != "any":
            pieces = [piece[: min(map(len, pieces))] for piece in pieces]
        lengths = [len(piece) for piece in pieces]
        caches.begin_piece(self._cache, lengths)
        tokens = mx.array([piece + [0] * (max(lengths) - len(piece)) for piece in pieces])
        logits = self._models.feed(tokens, self._cache)
        self._score(logits, lengths)
        caches.end_piece(self._cache, lengths)
        mx.clear_cache()
        for row, (prompt, length) in enumerate(zip(self.prompts, lengths, strict=True)):
            prompt.at += length
            if prompt.at_boundary:
                self._prefixes.keep(prompt.sequence.tokens[: prompt.at], caches.extract(self._cache, row))
        return self._part([row for row, prompt in enumerate(self.prompts) if not prompt.left])

    def remove(self, job_id: str) -> None:
        self._keep([n for n, prompt in enumerate(self.prompts) if prompt.sequence.job_id != job_id])

    def _part(self, rows: list[int]) -> list[Read]:
        if not rows:
            return []
        read = Read([self.prompts[row] for row in rows], self._cache)
        if len(rows) < len(self.prompts):
            read = read._replace(cache=caches.take(self._cache, rows))
            self._keep([row for row in range(len(self.prompts)) if row not in rows])
        else:
            self._cache, self.prompts = [], []
        for row, prompt in enumerate(read.prompts):
            if self._prefixes.worth(prompt.at - prompt.cached, ALONE):
                self._prefixes.keep(prompt.sequence.tokens[: prompt.at], caches.extract(read.cache, row))
        return [read]

    def _keep(self, rows: list[int]) -> None:
        if len(rows) < len(self.prompts):
            self.prompts = [self.prompts[row] for row in rows]
            caches.filter_rows(self._cache, rows)

    def _score(self, logits: mx.array, lengths: list[int]) -> None:
        """What the model thinks of the tokens that follow those just read."""
        for row, (prompt, length) in enumerate(zip(self.prompts, lengths, strict=True)):
            sequence = prompt.sequence
            if sequence.score_prompt:
                following = sequence.tokens[prompt.at + 1 : prompt.at + 1 + length]
                scores = score(logits[row, :length], mx.array(following), sequence.top or 0)
                prompt.scored += scores.tell([sequence.top or 0] * length)
