"""mlx-lm's caches of several rows at once: a list with one cache a layer.

A few architectures have caches that mlx-lm cannot batch (llama4's): their engine has one slot, and
the functions here then leave the one row's cache as it is.
"""

import copy
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache

Cache = list[Any]


def batchable(cache: Cache) -> bool:
    return all(hasattr(layer, "merge") for layer in cache)


def shortens(cache: Cache) -> bool:
    """Whether it can always be cut back to an earlier token: a sliding window that has wrapped and a
    recurrent state cannot."""
    return all(part.is_trimmable() and not hasattr(part, "max_size") for part in _parts(cache))


def merge(caches: Sequence[Cache]) -> Cache:
    """Caches of one row each as one of so many rows."""
    if not batchable(caches[0]):
        [alone] = caches
        return alone
    return [layers[0].merge(layers) for layers in zip(*caches, strict=True)]


def extend(cache: Cache, more: Cache) -> Cache:
    """`cache` with the rows of `more` behind its own. Both are used up."""
    if not cache or not more:
        return cache or more
    for layer, other in zip(cache, more, strict=True):
        layer.extend(other)
    return cache


def take(cache: Cache, rows: list[int]) -> Cache:
    """A copy with the given rows, each as often as it is named. Arrays are shared until they change."""
    if not rows:
        return []
    taken = copy.deepcopy(cache)
    filter_rows(taken, rows)
    return taken


def filter_rows(cache: Cache, keep: list[int]) -> None:
    """Leave the given rows."""
    if not keep:
        cache.clear()
    for layer in cache:
        if hasattr(layer, "filter"):
            layer.filter(keep)


def extract(cache: Cache, row: int) -> Cache:
    """One row's cache by itself, evaluated and copied: it would hold the whole batch's arrays otherwise."""
    alone = [layer.extract(row) if hasattr(layer, "extract") else copy.deepcopy(layer) for layer in cache]
    for part in _parts(alone):
        if isinstance(part, ArraysCache):  # it takes slices, which keep what they are slices of
            part.cache = [state if state is None else mx.contiguous(state) for state in part.cache]
    mx.async_eval([layer.state for layer in alone])
    return alone


def cut(cache: Cache, counts: list[int]) -> None:
    """Take so many of the last tokens off each row. For a cache that shortens."""
    least = min(counts)
    for layer in cache:
        layer.trim(least)
    lengths = [max(counts) - count for count in counts]
    if any(lengths):
        begin_piece(cache, lengths)  # what is left to take off is padding
        for layer in cache:
            layer.finalize()


def begin_piece(cache: Cache, lengths: list[int]) -> None:
    """Before a model call whose rows are padded on the right to the longest of `lengths`."""
    padding = [max(lengths) - length for length in lengths]
    if any(padding):
        for layer in cache:
            layer.prepare(lengths=lengths, right_padding=padding)


def end_piece(cache: Cache, lengths: list[int]) -> None:
    """After it: the padding goes to the left of each row."""
    if min(lengths) < max(lengths):
        for layer in cache:
            layer.finalize()
    mx.eval([layer.state for layer in cache])


def _parts(cache: Cache) -> list[Any]:
    """Some layers have several caches."""
    return [part for layer in cache for part in getattr(layer, "caches", [layer])]
