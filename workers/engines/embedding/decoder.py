"""Decoders that were trained to embed, such as Qwen3-Embedding, over mlx-lm's architectures.

The vector is the last layer at the last token, which sees all the others; what pads a row comes behind it and
is seen by nothing.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.utils import _get_classes, load_model

from workers import memory
from workers.engines.embedding.recipe import UnsupportedModel


def serves(config: dict[str, Any]) -> bool:
    """Whether mlx-lm has the architecture, and the model reads from left to right as mlx-lm does."""
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        return False
    try:
        _get_classes(config)
    except ValueError:
        return False
    return True


def load(path: Path) -> nn.Module:
    """The layers without the head, never running code from the folder.

    Raises UnsupportedModel, and what mlx-lm raises.
    """
    model, _ = load_model(
        path,
        model_config={"tie_word_embeddings": True},  # the head is not used, and may not be there
        get_model_classes=_classes,
        trust_remote_code=False,
    )
    if not hasattr(model, "model"):
        raise UnsupportedModel(f"the layers of a {type(model).__module__.rpartition('.')[2]} are not served")
    if not memory.compact():
        model.set_dtype(mx.float32)  # a CPU takes ten times as long at 16 bits
    return model.model


def _classes(config: dict[str, Any]) -> tuple[type[nn.Module], type]:
    """mlx-lm's own, but for the names of weights that sentence-transformers has written."""
    model, arguments = _get_classes(config)

    class Headless(model):
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            weights = {name: value for name, value in weights.items() if not name.startswith("lm_head.")}
            if not any(name.startswith("model.") for name in weights):
                weights = {f"model.{name}": value for name, value in weights.items()}
            return super().sanitize(weights) if hasattr(model, "sanitize") else weights

    return Headless, arguments
