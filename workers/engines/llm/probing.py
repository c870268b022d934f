"""How far mlx-lm can be trusted with several rows of an architecture: found out at load, not listed.

Some models (nemotron_h, jamba, rwkv7, … in mlx-lm 0.32.2) carry a recurrent state through the padding of a
prompt that is read beside a longer one; a few (afm7, gpt_bigcode) are wrong beside any other row. Both
would answer, and answer something else than alone.
"""

import logging
from typing import TYPE_CHECKING, Any, Literal

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from workers.engines.llm import caches

if TYPE_CHECKING:
    from workers.engines.llm.group import Group

SHORT, LONG = [3, 5, 7, 11], [13, 3, 17, 5, 19, 7, 23, 11, 29, 2]
WRONG = 0.05  # of the spread of the logits: what is right differs by 16-bit rounding, what is wrong by 0.085

Rows = Literal["any", "equal", "one"]  # may be read together: pieces of any length, of equal length, none

log = logging.getLogger("ominix.llm")


def rows_of(model: Any, group: "Group | None" = None) -> Rows:
    """In the engine thread, with the model's weights loaded. Rank 0 decides for all ranks of a group."""

    def differs(alone: mx.array, rows: list[list[int]]) -> bool:
        found = _differs(alone, model, rows)
        return group.decide(found) if group else found

    if not caches.batchable(make_prompt_cache(model)):
        return "one"
    alone = _last(model, [SHORT])
    if differs(alone, [SHORT, SHORT]):
        log.warning("mlx-lm does not batch this architecture rightly: one request at a time")
        return "one"
    if differs(alone, [SHORT, LONG]):
        log.info("prompts are read in pieces of equal length: mlx-lm does not pad this architecture rightly")
        return "equal"
    return "any"


def _differs(alone: mx.array, model: Any, rows: list[list[int]]) -> bool:
    try:
        beside = _last(model, rows)
    except Exception:  # some raise for an offset that is an array
        return True
    return not (mx.linalg.norm(beside - alone) <= WRONG * mx.linalg.norm(alone - alone.mean())).item()


def _last(model: Any, rows: list[list[int]]) -> mx.array:
    """The logits of the first row after it was read with the others and one token more was decoded."""
    cache = caches.merge([make_prompt_cache(model) for _ in rows])
    lengths = [len(row) for row in rows]
    caches.begin_piece(cache, lengths)
    model(mx.array([row + [0] * (max(lengths) - len(row)) for row in rows]), cache=cache)
    caches.end_piece(cache, lengths)
    logits = model(mx.array([[2]] * len(rows)), cache=cache)[0, -1].astype(mx.float32)
    mx.eval(logits)
    return logits
