"""What a folder says of the way from a model's last layer to a vector.

Format: the files that `SentenceTransformer.save` writes, https://github.com/UKPLab/sentence-transformers.
modules.json names the steps, 1_Pooling/config.json has a flag for each kind of pooling,
sentence_bert_config.json the longest input.
"""

import json
from pathlib import Path
from typing import Any, Literal

import msgspec

from workers.sources import WeightsError

Pooling = Literal["mean", "cls", "last", "max"]
FLAGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
MODES: dict[str, Pooling] = {"lasttoken": "last"}  # names that differ in the newer form of the file


class UnsupportedModel(WeightsError):
    """The folder asks for what is not served here; the message says what."""


class Recipe(msgspec.Struct, frozen=True):
    """`pooling` makes one vector of a text's tokens, None if the folder does not say how; `normalize`
    scales it to length 1. `longest` is in tokens, None if the folder does not say. `lower` is whether texts
    are put in lower case first, `more` the steps that are not served here."""

    pooling: Pooling | None = None
    normalize: bool = True
    longest: int | None = None
    lower: bool = False
    more: tuple[str, ...] = ()


def read_recipe(path: Path) -> Recipe:
    """The recipe of a model's folder. Raises UnsupportedModel for a pooling that is not served."""
    told = _longest(path)
    if not (path / "modules.json").is_file():
        return Recipe(**told)
    steps = [(_kind(step), step.get("path", "")) for step in read(path / "modules.json")]
    kinds = [kind for kind, _ in steps]
    return Recipe(
        pooling=next((_pooling(path / place) for kind, place in steps if kind == "Pooling"), None),
        normalize="Normalize" in kinds,
        more=tuple(kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")),
        **told,
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _kind(step: dict[str, Any]) -> str:
    return step["type"].rpartition(".")[2]


def _longest(path: Path) -> dict[str, Any]:
    """From sentence_bert_config.json, or whatever the transformer's kind made of that name."""
    for file in sorted(path.glob("sentence_*_config.json")):
        told = read(file)
        return {"longest": told.get("max_seq_length"), "lower": bool(told.get("do_lower_case"))}
    return {}


def _pooling(folder: Path) -> Pooling:
    told = read(folder / "config.json")
    asked = [flag for flag, on in told.items() if flag.startswith("pooling_mode_") and on]
    if isinstance(mode := told.get("pooling_mode"), str):
        asked = [mode]
    found = [FLAGS.get(each) or MODES.get(each, each) for each in asked]
    if len(found) != 1 or found[0] not in FLAGS.values():
        raise UnsupportedModel(f"the pooling {' + '.join(asked) or 'of this model'} is not served")
    return found[0]
