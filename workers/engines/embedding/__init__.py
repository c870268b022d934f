"""Embedding models: texts of all requests share batches of about one length.

BERT and RoBERTa encoders are computed here (`bert.py`), decoders that were trained to embed over mlx-lm
(`decoder.py`), all else by mlx-embeddings where that is installed (`library.py`). Pooling, normalisation and
the longest input are read from the files of sentence-transformers (`recipe.py`).
"""

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from tokenizers import Tokenizer

from shared.manifest import ModelEntry
from workers import memory
from workers.engines.embedding import bert
from workers.engines.embedding.encoder import Encoder
from workers.engines.embedding.engine import EmbeddingEngine
from workers.engines.embedding.lineup import Budget
from workers.engines.embedding.recipe import Pooling, Recipe, UnsupportedModel, read, read_recipe
from workers.engines.embedding.warmup import warm_up

__all__ = ["EmbeddingEngine", "Encoder", "Options", "UnsupportedModel", "load", "load_model"]

LONGEST = 8192  # tokens of one input, as OpenAI's models take: a longer one would hold up all others


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`options` of the manifest. `pooling` and `normalize` overrule the folder; `step_tokens` is how many
    tokens a step computes, 0 for as many as the device does in a quarter of a second or less."""

    pooling: Pooling | None = None
    normalize: bool | None = None
    step_tokens: int = 0


def load(entry: ModelEntry, path: Path) -> EmbeddingEngine:
    """The model in the folder `path`, warmed up. In the engine thread, which must stay the only one.

    Raises msgspec.ValidationError for unknown `options`, UnsupportedModel for a model that is not served
    here, and what mlx-lm or mlx-embeddings raise for a folder that they cannot load.
    """
    options = msgspec.convert(entry.options, Options)
    memory.set_wired_limit()
    try:
        encoder = load_model(path, entry.context_length, options)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{entry.id}: {error}.") from error
    engine = EmbeddingEngine(encoder, entry.max_concurrency, Budget(options.step_tokens))
    warm_up(engine, encoder.longest)
    return engine


def load_model(path: Path, longest: int | None = None, options: Options | None = None) -> Encoder:
    """An encoder of texts of up to `longest` tokens, by default what the folder says, at most LONGEST."""
    config = read(path / "config.json")
    recipe = _overruled(read_recipe(path), options or Options())
    told = (recipe.longest, config.get("max_position_embeddings"), LONGEST)
    longest = longest or min(filter(None, told))
    if config.get("model_type") in bert.OFFSET:
        return _bert(path, config, recipe, longest)
    return _decoder(path, config, recipe, longest) or _library(path, config, recipe, longest)


def _overruled(recipe: Recipe, options: Options) -> Recipe:
    normalize = recipe.normalize if options.normalize is None else options.normalize
    return replace(recipe, pooling=options.pooling or recipe.pooling, normalize=normalize)


def _bert(path: Path, raw: dict[str, Any], recipe: Recipe, longest: int) -> Encoder:
    if recipe.more:
        raise UnsupportedModel(f"the step {recipe.more[0]} of this model's modules.json is not served")
    model, config = bert.load(path, raw)
    longest = min(longest, config.positions)
    recipe = replace(recipe, pooling=recipe.pooling or "mean")
    return Encoder(model, recipe, _tokenizer(path), vocabulary=config.vocab_size, longest=longest)


def _decoder(path: Path, config: dict[str, Any], recipe: Recipe, longest: int) -> Encoder | None:
    """None for what is no decoder, or one that embeds in another way than by its last token."""
    named = any(name.endswith("ForCausalLM") for name in config.get("architectures") or ())
    if recipe.more or (recipe.pooling or ("last" if named else None)) != "last":
        return None
    from workers.engines.embedding import decoder

    if not decoder.serves(config):
        return None
    recipe = replace(recipe, pooling="last")
    hidden = decoder.load(path)
    return Encoder(
        lambda tokens, lengths: hidden(tokens), recipe, _tokenizer(path, own=True),
        vocabulary=_vocabulary(config), longest=longest,
    )  # fmt: skip


def _library(path: Path, config: dict[str, Any], recipe: Recipe, longest: int) -> Encoder:
    from workers.engines.embedding import library

    hidden = library.load(path, config, recipe)
    tokenizer = _tokenizer(path, own=True)
    return Encoder(
        hidden, recipe, tokenizer,
        vocabulary=_vocabulary(config), longest=longest, pad=config.get("pad_token_id") or 0,
    )  # fmt: skip


def _vocabulary(config: dict[str, Any]) -> int:
    told = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if not told:
        raise UnsupportedModel("its config.json does not say how large the vocabulary is")
    return told


def _tokenizer(path: Path, own: bool = False) -> Tokenizer:
    """The tokenizer of a folder; `own` is by the class that its config names, which may add tokens."""
    if (path / "tokenizer.json").is_file() and not own:
        return Tokenizer.from_file(str(path / "tokenizer.json"))
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path)).backend_tokenizer
