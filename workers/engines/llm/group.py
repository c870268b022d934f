"""The ranks that compute one model together, each a part of every layer (tensor parallelism)."""

import faulthandler
import sys
from importlib import metadata
from typing import Any

import mlx.core as mx

from workers.sources import WeightsError

PATIENCE = 60.0  # seconds; the other ranks are known to be there
HEADS = ("num_attention_heads", "num_key_value_heads")


class Group:
    """Connects with the other ranks, all of which must do so now. In the engine thread."""

    def __init__(self) -> None:
        # It holds the GIL while it waits: only this timer can end it, should another rank have died
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__)
        self._group = mx.distributed.init(strict=True)
        faulthandler.cancel_dump_traceback_later()

    def of_first(self, values: mx.array) -> mx.array:
        """Rank 0's, lazily. Other ranks still compute their own: all send everything in one order."""
        return mx.distributed.all_sum(values if self._group.rank() == 0 else values * 0, group=self._group)

    def decide(self, yes: bool) -> bool:
        """What rank 0 says."""
        return bool(self.of_first(mx.array([int(yes)])).item())

    def least(self, value: int) -> int:
        """Of all ranks' values."""
        return mx.distributed.all_min(mx.array([value]), group=self._group).item()

    def take_part(self, model: Any) -> None:
        """Load this rank's part of a model whose weights are not loaded yet."""
        model.shard(self._group)
        mx.eval(model.parameters())


def check_divides(model: Any, config: dict[str, Any], ranks: int) -> None:
    """Raises WeightsError for a model that cannot be divided among so many ranks."""
    if not hasattr(model, "shard"):
        kind, version = config.get("model_type"), metadata.version("mlx-lm")
        raise WeightsError(
            f"hosts: mlx-lm {version} cannot divide a model of type {kind!r} among hosts; leave them out."
        )
    inner = config.get("text_config") or config
    for name in HEADS:
        if (heads := inner.get(name)) and heads % ranks:
            raise WeightsError(
                f"hosts: {name} of this model is {heads}, which {ranks} ranks cannot share evenly; "
                "take a number of hosts that divides it."
            )
