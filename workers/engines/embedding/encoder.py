"""A loaded model, whichever it is: token ids in, vectors out."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from workers.engines.embedding.recipe import Pooling, Recipe

TINY = 1e-12  # the least length that a vector is divided by
Hidden = Callable[[mx.array, mx.array], mx.array]


class Encoder:
    """`hidden(tokens, lengths)` is a model's last layer: [rows, length] int32 token ids, of which `lengths`
    [rows] count and the rest is `pad`, to [rows, length, width]; or to [rows, width] of a model that pools
    by itself.

    `vocabulary` is the number of token ids, `longest` that of the tokens of one input.
    """

    def __init__(
        self,
        hidden: Hidden,
        recipe: Recipe,
        tokenizer: Tokenizer,
        *,
        vocabulary: int,
        longest: int,
        pad: int = 0,
    ) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.longest = longest
        self._hidden = hidden
        self._pad = pad
        self.dimensions = self.vectors([[pad]], 1).shape[-1]

    def vectors(self, rows: Sequence[Sequence[int]], length: int) -> mx.array:
        """[rows, dimensions] float32, not evaluated, of rows of token ids, none longer than `length`."""
        padded = np.full((len(rows), length), self._pad, np.int32)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        lengths = mx.array([len(row) for row in rows])
        hidden = self._hidden(mx.array(padded), lengths).astype(mx.float32)
        found = pool(hidden, lengths, self.recipe.pooling) if hidden.ndim == 3 else hidden
        return normal(found) if self.recipe.normalize else found


def pool(hidden: mx.array, lengths: mx.array, pooling: Pooling | None) -> mx.array:
    """[rows, width] of [rows, length, width], of which the first `lengths` [rows] tokens count."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[mx.arange(hidden.shape[0]), lengths - 1]
    inside = (mx.arange(hidden.shape[1]) < lengths[:, None])[..., None]
    if pooling == "max":
        return mx.where(inside, hidden, -mx.inf).max(axis=1)
    return mx.where(inside, hidden, 0).sum(axis=1) / lengths[:, None]


def normal(vectors: mx.array) -> mx.array:
    return vectors / mx.maximum(mx.linalg.norm(vectors, axis=-1, keepdims=True), TINY)
