"""Masks of a batch: filled in parallel, each row by itself, and laid over the logits."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import tokenizer_utils
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import BadRequest, EngineError
from shared.manifest import ModelEntry
from tests.engines.formats import ARITHMETIC, SCHEMAS, TOOLS, asked, grammar, schema
from tests.engines.walking import Walker, allowed, walk
from workers.engines.llm.constraint import Constraint, Masks, masked, on_device
from workers.engines.llm.grammar import Grammars


def constraint(tokenizer: TokenizerWrapper, vocabulary: int | None = None, **fields: Any) -> Constraint:
    request = asked(reasoning_effort="none", **fields)
    made = Grammars(tokenizer, vocabulary or len(tokenizer)).constraint(request, reasoning=False)
    assert made
    return made


def by_regex(regex: str) -> dict[str, Any]:
    return {"response_format": grammar("regex", regex)}


@pytest.mark.models
def test_rows_say_together_what_each_says_alone(starters: dict[str, tuple[ModelEntry, Path]]) -> None:
    tokenizer = tokenizer_utils.load(starters["llm"][1])
    grammars, vocabulary = Grammars(tokenizer, 49152), 49152
    formats = [schema(SCHEMAS[name]) for name in ("strings", "recursion", "optional properties", "anyOf")]
    formats += [grammar("lark", ARITHMETIC), grammar("regex", "[a-z ]{30}"), {"type": "json_object"}]
    requests = [asked(response_format=each) for each in formats]
    requests.append(asked(tools=TOOLS, tool_choice="required"))

    def walkers() -> list[Walker]:
        made = [grammars.constraint(request, reasoning=False) for request in requests]
        return [Walker(tokenizer, each, seed) for seed, each in enumerate(made) if each]

    together, alone = walkers(), walkers()
    walk(together, vocabulary)
    for each in alone:
        walk([each], vocabulary)

    assert [each.tokens for each in together] == [each.tokens for each in alone]


def test_forks_are_independent(small: TokenizerWrapper) -> None:
    first = constraint(small, **by_regex("(ab|cd)e*f"))
    for letter in "a":
        first.accept(small.encode(letter)[0])
    second = first.fork()
    for letter in "bee":
        second.accept(small.encode(letter)[0])

    mask = Masks(len(small)).fill([first, second])
    assert small.decode(allowed(mask, 0).tolist()) == "b"
    assert set(small.decode(allowed(mask, 1).tolist())) == set("ef")
    assert not first.error and not second.error
    second.accept(small.encode("x")[0])
    assert second.error and not first.error


def test_a_fork_of_a_constraint_in_a_call_goes_its_own_way(small: TokenizerWrapper) -> None:
    first = constraint(small, tools=TOOLS)
    first.accept(small.convert_tokens_to_ids("<tool_call>"))
    second = first.fork()
    second.accept(small.encode("\n")[0])
    mask = Masks(len(small)).fill([first, second])
    assert small.decode(allowed(mask, 0).tolist()) == "\n"
    assert "\n" not in small.decode(allowed(mask, 1).tolist())


def test_what_a_mask_forbids_is_an_error_and_no_exception(small: TokenizerWrapper) -> None:
    random, masks = np.random.default_rng(0), Masks(len(small))
    for fields in (by_regex("[ab]{3}"), {"tools": TOOLS, "tool_choice": "required"}):
        fresh = constraint(small, **fields)
        forbidden = np.setdiff1d(np.arange(len(small)), allowed(masks.fill([fresh])))
        for token in [*random.choice(forbidden, 20), -1, 10**6, 2**40]:
            row = fresh.fork()
            row.accept(int(token))
            assert isinstance(row.error, Exception)
            row.accept(0)
            assert not row.ended and not row.wants_mask
            assert masks.fill([row]) is None


def test_an_end_token_is_fine_where_the_answer_may_end(small: TokenizerWrapper) -> None:
    may, must = constraint(small, **by_regex("ab*")), constraint(small, **by_regex("ab"))
    for row in (may, must):
        row.accept(small.encode("a")[0])
        row.accept(small.encode("b")[0])
    assert (may.ended, must.ended) == (False, True)
    mask = Masks(len(small)).fill([may, must])
    assert set(allowed(mask, 1).tolist()) == small.eos_token_ids
    for row in (may, must):
        row.accept(max(small.eos_token_ids))
        assert row.ended and not row.error
        assert set(allowed(Masks(len(small)).fill([row]))) == small.eos_token_ids


def test_rows_without_a_constraint_are_all_ones(small: TokenizerWrapper) -> None:
    masks, row = Masks(len(small)), constraint(small, **by_regex("a"))
    assert masks.fill([None, None]) is None
    assert masks.fill([None, constraint(small, tools=TOOLS)]) is None
    mask = masks.fill([None, row, None])
    assert mask.dtype == np.int32
    assert mask.shape == (3, -(-len(small) // 32))
    assert (mask[[0, 2]] == -1).all()
    assert small.decode(allowed(mask, 1).tolist()) == "a"


@pytest.mark.parametrize("more", [-3, -1, 0, 1, 31, 100])
def test_no_token_is_allowed_that_model_or_tokenizer_does_not_have(
    small: TokenizerWrapper, more: int
) -> None:
    vocabulary = len(small) + more
    for definition in ("start: <[*]>", "start: /(?s:.*)/"):
        row = constraint(small, vocabulary, response_format=grammar("lark", definition))
        mask = Masks(vocabulary).fill([row])
        assert mask.shape == (1, -(-vocabulary // 32))
        assert 0 < max(allowed(mask)) < min(vocabulary, len(small))


def test_a_grammar_that_becomes_too_complex_costs_its_own_row(small: TokenizerWrapper) -> None:
    hopeless = constraint(small, **by_regex(r"(([a-z]{1,100}){1,100}){1,100}x"))
    good = constraint(small, **by_regex("a{200}"))
    masks, a = Masks(len(small)), small.encode("a")[0]
    for _ in range(100):
        mask = masks.fill([hopeless, good])
        if hopeless.error:
            break
        hopeless.accept(a)
        good.accept(a)
    assert isinstance(hopeless.error, BadRequest)
    assert hopeless.error.param == "response_format.grammar.definition"
    assert (mask[0] == -1).all()
    assert small.decode(allowed(mask, 1).tolist()) == "a"
    assert not good.error


def test_a_row_that_nothing_can_follow_is_left_unmasked(small: TokenizerWrapper) -> None:
    """The model lacks the token that the grammar wants: nothing is allowed."""
    last = len(small) - 1
    row = constraint(small, last, response_format=grammar("lark", f"start: <[{last}]>"))
    mask = Masks(last).fill([row])
    assert isinstance(row.error, BadRequest | EngineError)
    assert (mask == -1).all()


@pytest.mark.parametrize("vocabulary", [1, 31, 32, 33, 1000, 49152])
def test_masked_logits_are_those_of_numpy(vocabulary: int) -> None:
    random = np.random.default_rng(vocabulary)
    for rows in (1, 3, 8):
        words = -(-vocabulary // 32)
        mask = random.integers(-(2**31), 2**31, (rows, words)).astype(np.int32)
        logits = random.normal(size=(rows, vocabulary)).astype(np.float32)
        bits = np.unpackbits(mask.view(np.uint8), axis=1, bitorder="little")[:, :vocabulary]
        expected = np.where(bits == 1, logits, -np.inf)
        assert np.array_equal(np.array(masked(mx.array(logits), on_device(mask))), expected)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_masked_logits_keep_their_type(dtype: mx.Dtype) -> None:
    assert (
        masked(mx.zeros((2, 40), dtype=dtype), on_device(np.full((2, 2), 5, dtype=np.int32))).dtype == dtype
    )


def test_a_mask_that_the_device_still_reads_is_not_overwritten(small: TokenizerWrapper) -> None:
    masks, row = Masks(len(small)), constraint(small, **by_regex("abcd"))
    logits, lazy, expected = mx.zeros((1, len(small))), [], []
    for letter in "abcd":
        mask = masks.fill([row])
        lazy.append(masked(logits, on_device(mask)))
        expected.append(allowed(mask).tolist())
        mask[:] = 0  # what is computed later has a copy
        row.accept(small.encode(letter)[0])
    said = [np.flatnonzero(np.isfinite(np.array(each)[0])).tolist() for each in lazy]
    assert said == expected
    assert len({tuple(each) for each in said}) == 4
