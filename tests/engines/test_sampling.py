"""Choosing tokens: as mlx-lm narrows, in the proportions of the model, in any number format."""

import itertools
from typing import Any

import numpy as np
import pytest

from shared.generation import Generation

pytestmark = pytest.mark.models

VOCABULARY = 11
SEEDS = 20_000
CHI_SQUARED = 29.6  # ten degrees of freedom, one time in a thousand


def sampling(*, temperature: float = 1.0, seed: int = 0, **fields: Any) -> Any:
    from workers.engines.llm.sampling import Defaults, sampling_of

    request = Generation(model="m", temperature=temperature, seed=seed, **fields)
    return sampling_of(request, Defaults(), 1 << 20)


def draws(rng: np.random.Generator, kind: str, size: int) -> Any:
    import mlx.core as mx

    values = rng.normal(size=(12, size)) * 3
    if kind == "masked":
        values[rng.random(values.shape) < 0.7] = -np.inf
        values[:, 0] = 1
    logits = mx.array(values.astype(np.float32))
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_it_narrows_as_mlx_lm_does(kind: str) -> None:
    import mlx.core as mx
    from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

    from workers.engines.llm.sampling import Narrowing

    rng = np.random.default_rng(0)
    ways = list(itertools.product((1.0, 0.3, 0.9), (0.0, 0.05, 1.0), (0, 1, 5)))
    for size in (7, 97, 2000):
        for some in _batched(ways, 12):
            logprobs = draws(rng, kind, size)[: len(some)]
            rows = [sampling(top_p=top_p, min_p=min_p, top_k=top_k) for top_p, min_p, top_k in some]
            kept = np.array(Narrowing(rows)(logprobs) > -mx.inf)
            for row, (top_p, min_p, top_k) in enumerate(some):
                theirs = logprobs[row : row + 1]
                theirs = apply_top_p(theirs, top_p) if top_p < 1 else theirs
                theirs = apply_min_p(theirs, min_p) if min_p else theirs
                theirs = apply_top_k(theirs, top_k) if top_k else theirs
                assert (kept[row] == np.array(theirs[0] > -mx.inf)).all(), (size, top_p, min_p, top_k)


def _batched(values: list[Any], size: int) -> list[list[Any]]:
    return [values[at : at + size] for at in range(0, len(values), size)]


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.7}, {"top_p": 0.8}, {"top_k": 4}, {"min_p": 0.2}])
def test_over_seeds_and_over_positions_tokens_come_as_often_as_they_should(fields: dict[str, Any]) -> None:
    import mlx.core as mx
    from msgspec.structs import replace

    from workers.engines.llm.sampling import Narrowing, Sampler

    logits = mx.array(np.random.default_rng(3).normal(size=(1, VOCABULARY)).astype(np.float32))
    one, batch = sampling(**fields), 2000
    narrowed = Narrowing([one])(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    expected = SEEDS * np.array(mx.softmax(narrowed / one.temperature, axis=-1))[0]
    for seeds in (True, False):
        counts = np.zeros(VOCABULARY)
        for first in range(0, SEEDS, batch):
            numbers = list(range(first, first + batch))
            rows = [replace(one, seed=number if seeds else 7) for number in numbers]
            chosen = Sampler(rows)(mx.repeat(logits, batch, axis=0), [0] * batch if seeds else numbers)
            counts += np.bincount(np.array(chosen), minlength=VOCABULARY)
        likely = expected > 0
        assert not counts[~likely].any()
        assert ((counts - expected)[likely] ** 2 / expected[likely]).sum() < CHI_SQUARED


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_a_nucleus_of_16_bits_is_no_larger_than_one_of_32(kind: str) -> None:
    import mlx.core as mx

    from workers.engines.llm.sampling import Sampler

    rows = [sampling(top_p=0.5, seed=seed) for seed in range(200)]
    logits = mx.random.normal((1, 20_000), key=mx.random.key(1)).astype(getattr(mx, kind))
    chosen = Sampler(rows)(mx.repeat(logits, len(rows), axis=0), [0] * len(rows))
    best = -mx.sort(-mx.softmax(logits.astype(mx.float32), axis=-1))
    least = best[0, (mx.cumsum(best[0]) < 0.5).sum()]
    assert (mx.softmax(logits[0].astype(mx.float32))[chosen] >= least).all().item()


def test_a_top_k_that_keeps_all_or_is_none_narrows_nothing() -> None:
    from workers.engines.llm.sampling import Defaults, sampling_of

    for top_k in (-1, 0, VOCABULARY, 1 << 40):
        told = sampling_of(Generation(model="m"), Defaults(top_k=top_k), VOCABULARY)
        assert told.top_k == 0 and not told.narrows
