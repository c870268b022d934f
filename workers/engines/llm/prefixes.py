"""The prompt cache: what was computed for one prompt serves the next that begins alike.

Entries are found by the hashes of their beginnings, a block at a time, each over all before it (as vLLM's
automatic prefix caching does), and then compared token by token: a cache is only ever used for exactly
the tokens that it was made of. mlx-lm's LRUPromptCache walks its whole trie for every look-up, 8 ms with a
few hundred entries.
"""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

from mlx_lm.models.cache import trim_prompt_cache

from workers.engines.llm import caches
from workers.engines.llm.caches import Cache
from workers.engines.llm.models import Models
from workers.engines.llm.sequence import Sequence

BLOCK = 32  # tokens: fewer are not worth keeping, or looking for
SEVERAL = 8  # entries with one beginning that are compared to the end


class Entry(NamedTuple):
    """The cache of some tokens. `marks` are the hashes of their beginnings."""

    tokens: list[int]
    cache: Cache
    marks: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.cache)


class Prefixes:
    """At most `size` bytes of caches, the least recently used go first; 0 keeps nothing."""

    def __init__(self, models: Models, size: int) -> None:
        self.size = size
        self.nbytes = 0
        self._models = models
        self.needs_boundaries = size > 0 and not caches.shortens(models.make_cache())
        self._entries: dict[int, Entry] = {}  # by a running number, the least recently used first
        self._begun: dict[int, set[int]] = {}  # mark -> entries that begin with it
        self._count = 0
        self._too_long: float = math.inf  # tokens: so many do not fit

    def nearest(self, sequence: Sequence) -> tuple[Cache, int]:
        """A cache of one row for the longest known beginning of a prompt, and that beginning's length.
        At least the last token is left to compute."""
        tokens = sequence.tokens[:-1]
        if sequence.score_prompt or not self._entries or (found := self._find(tokens)) is None:
            return self._models.make_cache(), 0
        number, length = found
        entry = self._entries[number] = self._entries.pop(number)
        cache = copy.deepcopy(entry.cache)  # the arrays are shared
        if length < len(entry.tokens):
            trim_prompt_cache(cache, len(entry.tokens) - length)
        return cache, length

    def fits(self, tokens: int) -> bool:
        """Whether so many may be kept, as far as is known."""
        return self.size > 0 and tokens < self._too_long

    def worth(self, tokens: int, least: int = BLOCK) -> bool:
        """Whether so many tokens that were not known are kept."""
        return self.size > 0 and tokens >= least

    def keep(self, tokens: list[int], cache: Cache) -> None:
        """Remember the cache of `tokens`, which nobody else changes."""
        entry = Entry(tokens, cache, tuple(_marks(tokens)))
        if entry.nbytes > self.size:
            self._too_long = min(self._too_long, len(tokens))
        if not entry.marks or entry.nbytes > self.size:
            return
        for number in self._superseded(entry):
            self._drop(number)
        self._count += 1
        self._entries[self._count] = entry
        self.nbytes += entry.nbytes
        for mark in entry.marks:
            self._begun.setdefault(mark, set()).add(self._count)
        while self.nbytes > self.size:
            self._drop(next(iter(self._entries)))

    def _find(self, tokens: list[int]) -> tuple[int, int] | None:
        """The entry that serves longest, and how many tokens of it: any of its beginnings, or only the whole
        where caches cannot be cut back."""
        known: list[set[int]] = []
        for mark in _marks(tokens):
            if mark not in self._begun:
                break
            known.append(self._begun[mark])
        if self.needs_boundaries:
            return self._whole(known, tokens)
        served = ((number, _common(self._entries[number].tokens, tokens)) for number in _some(known[-1:]))
        best = max(served, key=lambda pair: pair[1], default=(0, 0))
        return best if best[1] >= BLOCK else None

    def _whole(self, known: list[set[int]], tokens: list[int]) -> tuple[int, int] | None:
        for level in range(len(known), 0, -1):
            ending = ((n, self._entries[n]) for n in known[level - 1])
            whole = {
                number: len(entry.tokens)
                for number, entry in ending
                if len(entry.marks) == level and entry.tokens == tokens[: len(entry.tokens)]
            }
            if whole:
                return max(whole.items(), key=lambda pair: pair[1])
        return None

    def _superseded(self, entry: Entry) -> list[int]:
        """What the new entry says too: the same tokens, or any beginning of them if it can be cut back."""
        marks = set(entry.marks)
        alike = ((n, self._entries[n]) for n in self._begun.get(entry.marks[0], ()))
        return [
            number
            for number, old in alike
            if old.marks[-1] in marks
            and old.tokens == entry.tokens[: len(old.tokens)]
            and (not self.needs_boundaries or len(old.tokens) == len(entry.tokens))
        ]

    def _drop(self, number: int) -> None:
        entry = self._entries.pop(number)
        self.nbytes -= entry.nbytes
        for mark in entry.marks:
            self._begun[mark].discard(number)
            if not self._begun[mark]:
                del self._begun[mark]


def _marks(tokens: list[int]) -> Iterator[int]:
    """The hash of every beginning of whole blocks."""
    mark = 0
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        mark = hash((mark, *tokens[end - BLOCK : end]))
        yield mark


def _some(known: list[set[int]]) -> list[int]:
    """The latest of the entries that share most."""
    return sorted(known[0], reverse=True)[:SEVERAL] if known else []


def _common(one: list[int], other: list[int]) -> int:
    """How many tokens two lists begin with alike."""
    if one[: len(other)] == other[: len(one)]:
        return min(len(one), len(other))
    return next(n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
