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
from workers.engines.llm.engine import LlmEngine, slots_of
from workers.engines.llm.generator import Generator
from workers.engines.llm.group import Group, check_divides
from workers.engines.llm.models import Models
from workers.engines.llm.options import Options
from workers.engines.llm.prefixes import Prefixes
from workers.engines.llm.ranks import Leader, follow, receive
from workers.engines.llm.sampling import Defaults
from workers.engines.llm.warmup import warm_up
from workers.ranks import Followers, Link
from workers.sources import WeightsError

__all__ = ["LlmEngine", "Options", "join", "load", "load_model"]

CONTEXT_LENGTH = 4096  # of a model that does not say


def load(entry: ModelEntry, path: Path, followers: Followers | None = None) -> LlmEngine:
    """The model in the folder `path`, warmed up. In the engine thread, which must stay the only one. With
    `followers`, which wait in `join`, this rank has a part of the model only.

    Raises msgspec.ValidationError for unknown `options`, WeightsError for an adapter or a draft model that
    is not to be had or does not fit, and what mlx-lm raises for a folder that it cannot load.
    """
    options = msgspec.convert(entry.options, Options)
    adapter, draft = beside.fetch(entry, options)
    memory.set_wired_limit()
    model, tokenizer, config = load_model(path, adapter, lazy=followers is not None)
    leader = None
    if followers:
        _check(options, model, config, followers.size)
        followers.gather()
        leader = Leader(followers, entry.max_concurrency, options)
        leader.group.take_part(model)
    options = _settled(options, leader and leader.group)
    if followers:
        followers.connected()
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
        leader=leader,
    )
    warm_up(engine, options.prefill_step, context_length)
    return engine


def join(entry: ModelEntry, path: Path, link: Link) -> None:
    """Be another rank of the same model, until rank 0 needs none any more. Raises as `load` does."""
    _, draft = beside.fetch(entry, msgspec.convert(entry.options, Options))
    memory.set_wired_limit()
    model, tokenizer, _ = load_model(path, lazy=True)
    drafting = _load_draft(draft, tokenizer) if draft else None
    link.ready()
    if not (setup := receive(link)):
        return
    group = Group()
    group.take_part(model)
    options = _settled(setup.options, group)
    models = Models(model, drafting, group)
    vocabulary = model(mx.array([[0]])).shape[-1]
    prefixes = Prefixes(models, options.prompt_cache_bytes)
    slots = slots_of(models, setup.slots)
    follow(link, Generator(models, vocabulary, tokenizer.eos_token_ids, slots, options, prefixes))


def load_model(
    path: Path, adapter: Path | None = None, lazy: bool = False
) -> tuple[Any, Any, dict[str, Any]]:
    """(model, tokenizer, config) by mlx-lm, never running code from the folder."""
    model, tokenizer, config = mlx_lm.load(str(path), lazy=lazy, return_config=True, trust_remote_code=False)
    if adapter:
        beside.adapt(model, adapter)
    if not memory.compact():
        model.set_dtype(mx.float32)  # a CPU takes ten times as long at 16 bits
    return model, tokenizer, config


def _check(options: Options, model: Any, config: dict[str, Any], ranks: int) -> None:
    if options.adapter:
        raise WeightsError("options.adapter: not with hosts; put it into the weights with mlx_lm.fuse.")
    check_divides(model, config, ranks)


def _settled(options: Options, group: Group | None) -> Options:
    """What the device decides, the weakest one of a group."""
    options = options.settled()
    if not group:
        return options
    weakest = {name: group.least(getattr(options, name)) for name in ("prefill_step", "prompt_cache_mb")}
    return msgspec.structs.replace(options, **weakest)


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
