"""Every other architecture, through mlx-embeddings, which is an extra: it brings 800 MB."""

import inspect
from pathlib import Path
from typing import Any

import mlx.core as mx

from workers import memory
from workers.engines.embedding.encoder import Hidden
from workers.engines.embedding.recipe import Recipe, UnsupportedModel

EXTRA = "pip install 'ominix[embeddings]'"


def load(path: Path, config: dict[str, Any], recipe: Recipe) -> Hidden:
    """The model of a folder; it pools itself where the recipe does not say how, or has steps of its own.

    Raises UnsupportedModel, naming the extra where it is not installed.
    """
    kind = config.get("model_type")
    try:
        from mlx_embeddings.utils import load_model
    except ImportError as error:
        raise UnsupportedModel(
            f"a model of the type {kind!r} needs mlx-embeddings, which is not installed: {EXTRA}"
        ) from error
    try:
        # the field by which ModernBERT, which always pools itself, is told how
        told = {"classifier_pooling": recipe.pooling} if recipe.pooling else {}
        model = load_model(path, model_config=told, path_to_repo=str(path))
    except ValueError as error:
        raise UnsupportedModel(f"mlx-embeddings cannot load it: {error}".rstrip(".")) from error
    if not memory.compact():
        model.set_dtype(mx.float32)  # a CPU takes ten times as long at 16 bits
    if "attention_mask" not in inspect.signature(model.__call__).parameters:
        raise UnsupportedModel(f"mlx-embeddings has no text encoder of the type {kind!r}")

    def hidden(tokens: mx.array, lengths: mx.array) -> mx.array:
        mask = (mx.arange(tokens.shape[1]) < lengths[:, None]).astype(mx.int32)
        made = model(tokens, attention_mask=mask)
        return made.last_hidden_state if recipe.pooling and not recipe.more else made.text_embeds

    return hidden
