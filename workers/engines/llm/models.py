"""A language model, and the draft model that runs ahead of it if there is one."""

from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from workers.engines.llm.caches import Cache
from workers.engines.llm.probing import Rows, rows_of

if TYPE_CHECKING:
    from workers.engines.llm.group import Group


class Models:
    """Both are fed the same tokens; their caches lie in one list, the model's layers first.

    `rows` is what of several prompts may be read together. With a `group` each of its ranks computes a part
    of the model, and the whole draft.
    """

    def __init__(self, model: Any, draft: Any = None, group: "Group | None" = None) -> None:
        self.model, self.draft, self._group = model, draft, group
        self._layers = len(make_prompt_cache(model))
        found = {rows_of(each, group) for each in (model, draft) if each}
        self.rows: Rows = next(rows for rows in ("one", "equal", "any") if rows in found)

    def make_cache(self) -> Cache:
        """An empty one, of one row."""
        return make_prompt_cache(self.model) + (make_prompt_cache(self.draft) if self.draft else [])

    def feed(self, tokens: mx.array, cache: Cache) -> mx.array:
        """`tokens` [rows, length] to both; the model's logits [rows, length, vocabulary]."""
        if self.draft:
            self.draft(tokens, cache=cache[self._layers :])
        return self.model(tokens, cache=cache[: self._layers])

    def verify(self, tokens: mx.array, cache: Cache) -> mx.array:
        """The same to the model alone."""
        return self.model(tokens, cache=cache[: self._layers])

    def guess(self, tokens: mx.array, cache: Cache, vocabulary: int) -> mx.array:
        """The draft model's logits [rows, vocabulary] after `tokens` [rows]. Models of one family pad theirs
        to different lengths, so that few may be missing, or too many."""
        logits = self.draft(tokens[:, None], cache=cache[self._layers :])[:, -1, :vocabulary]
        missing = vocabulary - logits.shape[-1]
        return mx.pad(logits, [(0, 0), (0, missing)], constant_values=-mx.inf) if missing else logits

    def agree(self, tokens: mx.array) -> mx.array:
        """What rank 0 has chosen: close calls may come out otherwise on another chip."""
        return self._group.of_first(tokens) if self._group else tokens

    def draft_state(self, cache: Cache) -> list[Any]:
        """What nothing waits for: unless it is computed with each step it grows into a graph."""
        return [layer.state for layer in cache[self._layers :]]
