"""Language models over mlx-lm: many chats in one continuous batch.

A request that does not say otherwise is sampled as OpenAI does (temperature 1, top_p 1), or as the
model's `generation_config.json` says. Equal seeds give equal answers, whatever else is in the batch.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import msgspec
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.manifest import ModelEntry
from workers import memory
from workers.engines.llm import beside
from workers.engines.llm.engine import LlmEngine
from workers.engines.llm.options import Options
from workers.engines.llm.sampling import Defaults
from workers.engines.llm.warmup import warm_up

__all__ = ["LlmEngine", "Options", "load", "load_model"]

CONTEXT_LENGTH = 4096  # of a model that does not say


def load(entry: ModelEntry, path: Path) -> LlmEngine:
    """The model in the folder `path`, warmed up. In the engine thread, which must stay the only one.

    Raises msgspec.ValidationError for unknown `options`, WeightsError for an adapter or a draft model that
    is not to be had or does not fit, and what mlx-lm raises for a folder that it cannot load.
    """
    options = msgspec.convert(entry.options, Options).settled()
    adapter, draft = beside.fetch(entry, options)
    memory.set_wired_limit()
    model, tokenizer, config = load_model(path, adapter)
    context_length = entry.context_length or _context_length(config)
    engine = LlmEngine(
        model,
        tokenizer,
        slots=entry.max_concurrency,
        context_length=context_length,
        vocabulary=model(mx.array([[0]])).shape[-1],
        defaults=_defaults(path),
        options=options,
        draft=_load_draft(draft, tokenizer) if draft else None,
    )
    warm_up(engine, options.prefill_step, context_length)
    return engine


def load_model(path: Path, adapter: Path | None = None) -> tuple[Any, Any, dict[str, Any]]:
    """(model, tokenizer, config) by mlx-lm, never running code from the folder."""
    model, tokenizer, config = mlx_lm.load(str(path), return_config=True, trust_remote_code=False)
    if adapter:
        beside.adapt(model, adapter)
    if not memory.compact():
        model.set_dtype(mx.float32)  # a CPU takes ten times as long at 16 bits
    return model, tokenizer, config


def _load_draft(path: Path, tokenizer: TokenizerWrapper) -> Any:
    model, own_tokenizer, _ = load_model(path)
    beside.check_draft(own_tokenizer, tokenizer, path)
    return model


def _context_length(config: dict[str, Any]) -> int:
    inner = config.get("text_config") or {}
    return config.get("max_position_embeddings") or inner.get("max_position_embeddings") or CONTEXT_LENGTH


def _defaults(path: Path) -> Defaults:
    """What the model's makers recommend; a value of null is none."""
    try:
        told = json.loads((path / "generation_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Defaults()
    return msgspec.convert({key: value for key, value in told.items() if value is not None}, Defaults)
