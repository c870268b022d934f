"""The prompt cache: what was computed for one prompt serves the next that begins alike.

mlx-lm's LRUPromptCache keeps the tokens in a trie, so a cache is only ever used for exactly the tokens
it was made of.
"""

from mlx_lm.models.cache import LRUPromptCache

from workers.engines.llm import caches
from workers.engines.llm.caches import Cache
from workers.engines.llm.models import Models
from workers.engines.llm.sequence import Sequence

LEAST = 32  # tokens that are worth keeping, or looking for
KEY = "prompts"  # one model, one cache


class Prefixes:
    """At most `size` bytes of caches; 0 keeps nothing."""

    def __init__(self, models: Models, size: int) -> None:
        self._models = models
        self.size = size
        self._kept = LRUPromptCache(max_size=1 << 20, max_bytes=size)
        self.needs_boundaries = size > 0 and not caches.shortens(models.make_cache())

    @property
    def nbytes(self) -> int:
        return self._kept.nbytes

    def nearest(self, sequence: Sequence) -> tuple[Cache, int]:
        """A cache of one row for the longest known beginning of a prompt, and that beginning's length.
        At least the last token is left to compute."""
        tokens = sequence.tokens[:-1]
        if len(tokens) >= LEAST and not sequence.score_prompt:
            cache, rest = self._kept.fetch_nearest_cache(KEY, tokens)
            if cache is not None and len(tokens) - len(rest) >= LEAST:
                return cache, len(tokens) - len(rest)
        return self._models.make_cache(), 0

    def worth(self, tokens: int, least: int = LEAST) -> bool:
        """Whether so many tokens that were not known are kept."""
        return self.size > 0 and tokens >= least

    def keep(self, tokens: list[int], cache: Cache) -> None:
        """Remember the cache of `tokens`, which nobody else changes."""
        if self.worth(len(tokens)):
            self._kept.insert_cache(KEY, tokens, cache)

    def clear(self) -> None:
        self._kept = LRUPromptCache(max_size=1 << 20, max_bytes=self.size)
