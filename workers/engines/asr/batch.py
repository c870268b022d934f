"""The continuous batch of a speech model with a decoder like an LLM's: rows come and go at any step.

A row's prompt is read alone; then its keys and values join the others', padded on the left, as in
mlx-lm's BatchGenerator. A step's tokens are read while the next step is already being computed.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_audio.lm.models.cache import BatchKVCache, KVCache

from workers.engines.asr.recognizer import Asked, Key

TIDY = 256  # steps after which MLX's unused buffers are freed: every step has shapes of its own


@dataclass(eq=False, kw_only=True)
class Row:
    """A chunk that is being heard: its `rung`-th try, at the temperature `ladder[rung]`."""

    key: Key
    samples: np.ndarray
    asked: Asked
    ladder: tuple[float, ...]
    rung: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    plausible: "Row | None" = None  # the first try that ended by itself, however repetitive
    drawn: int = 0  # tokens, of which the last may not have been read
    padding: int = 0  # positions of the batch before the row begins

    @property
    def temperature(self) -> float:
        return self.ladder[self.rung]

    def again(self, plausible: "Row | None") -> "Row":
        """The next try."""
        return replace(
            self, rung=self.rung + 1, tokens=[], logprobs=[], plausible=plausible, drawn=0, padding=0
        )


class Batch:
    """`model` has mlx-audio's layout: `make_cache`, `model` (decoder with `embed_tokens`), `lm_head`."""

    def __init__(self, model: Any) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._cache: list[BatchKVCache] = []
        self._width = 0  # positions of the cache
        self._next: tuple[mx.array, mx.array] | None = None  # each row's token [n] and its logprob [n]
        self._current: tuple[mx.array, mx.array] | None = None  # the same, of the last launch
        self._steps = 0

    def join(self, row: Row, prompt: mx.array) -> None:
        """Read a prompt, embeddings [1, positions, width], and add its row."""
        cache = self._model.make_cache()
        first = draw(self._logits(prompt, cache), [row])
        mx.async_eval(*first)
        self._merge([BatchKVCache.merge([layer]) for layer in cache], row, prompt.shape[1])
        self._next = tuple(map(mx.concatenate, zip(self._next, first, strict=True))) if self._next else first

    def launch(self) -> list[Row]:
        """Begin to compute a step. Returns the rows whose tokens `read` will take."""
        if not self.rows:
            return []
        self._current = self._next
        embedded = self._model.model.embed_tokens(self._current[0][:, None])
        self._next = draw(self._logits(embedded, self._cache), self.rows)
        mx.async_eval(*self._next)
        self._width += 1
        self._steps += 1
        if self._steps % TIDY == 0:
            mx.clear_cache()
        return list(self.rows)

    def read(self, rows: list[Row]) -> None:
        """Append the tokens that the last launch fed to what its `rows` have said."""
        tokens, logprobs = (each.tolist() for each in self._current)
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)

    def leave(self, gone: Collection[Row]) -> None:
        """Take rows out; the others go on."""
        kept = [at for at, row in enumerate(self.rows) if row not in gone]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[at] for at in kept]
        if not kept:
            self._cache, self._next, self._width = [], None, 0
            mx.clear_cache()
            return
        index, drop = mx.array(kept), min(row.padding for row in self.rows)
        for layer in self._cache:
            # not layer.filter: it asks the device for the padding, layer by layer
            keys, values, offset, padding = layer.state
            keys, values = (each[index][..., drop:, :] for each in (keys, values))
            layer.state = (keys, values, offset[index], padding[index] - drop)
        self._next = tuple(each[index] for each in self._next)
        self._pad(-drop)

    def _merge(self, cache: list[BatchKVCache], row: Row, length: int) -> None:
        if self._cache:
            for layer, other in zip(self._cache, cache, strict=True):
                layer.extend(other)
        else:
            self._cache = cache
        row.padding = max(self._width - length, 0)
        self._pad(max(length - self._width, 0))
        self.rows.append(row)

    def _pad(self, positions: int) -> None:
        self._width += positions
        for row in self.rows:
            row.padding += positions

    def _logits(self, embedded: mx.array, cache: list[KVCache] | list[BatchKVCache]) -> mx.array:
        """The logits [rows, vocabulary] of the last position."""
        hidden = self._model.model(inputs_embeds=embedded, cache=cache)[:, -1]
        head = self._model.lm_head
        logits = head(hidden) if head is not None else self._model.model.embed_tokens.as_linear(hidden)
        return logits.astype(mx.float32)


def draw(logits: mx.array, rows: list[Row]) -> tuple[mx.array, mx.array]:
    """Each row's next token and its log-probability at temperature 1.

    What is drawn depends on the row's temperature, its rung and the token's number alone, so that the
    same audio gives the same text whatever else is in the batch.
    """
    tokens = mx.argmax(logits, axis=-1)
    if any(row.temperature for row in rows):
        tokens = mx.stack(
            [_sample(logits[at], row) if row.temperature else tokens[at] for at, row in enumerate(rows)]
        )
    chosen = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    for row in rows:
        row.drawn += 1
    return tokens, chosen - mx.logsumexp(logits, axis=-1)


def _sample(logits: mx.array, row: Row) -> mx.array:
    key = mx.random.key(row.rung << 16 | row.drawn)
    return mx.random.categorical(logits / row.temperature, key=key).astype(mx.uint32)
