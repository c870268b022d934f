"""What is on disk of a model, for those who may not import what makes and loads it."""

import glob
import json
from pathlib import Path
from typing import Any

from shared.manifest import ModelEntry

MARKER = "ominix.json"  # in a finished folder: where it came from and when


def folder(entry: ModelEntry, models_dir: Path) -> Path | None:
    """Where the model's files are, or will be; None for an engine without files."""
    if not entry.source:
        return None
    return models_dir / entry.id if is_remote(entry) else Path(entry.source)


def is_whole(entry: ModelEntry, models_dir: Path) -> bool:
    """Whether every file of the model is there, from the source that the entry names."""
    path = folder(entry, models_dir)
    if path is None:
        return True
    if is_remote(entry):
        marker = read_marker(path)
        return (marker.get("source"), marker.get("sha256")) == (entry.source, entry.sha256)
    return (path / "config.json").is_file()


def describe(entry: ModelEntry, models_dir: Path, here: bool = True) -> dict[str, Any]:
    """path, repo_id, quantization ({bits, group_size}), size_bytes, downloaded_at (Unix seconds) and
    model_type of a model that is whole `here`, or on other hosts; None where there is nothing to say."""
    path = folder(entry, models_dir)
    facts: dict[str, Any] = dict.fromkeys(("path", "quantization", "size_bytes", "downloaded_at"))
    if path and here:
        made = read_marker(path).get("downloaded_at") or (path / "config.json").stat().st_mtime
        facts = {
            "path": str(path),
            "quantization": _quantization(_read(path / "config.json")),
            "size_bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
            "downloaded_at": int(made),
        }
    return facts | {"repo_id": entry.repo_id, "model_type": entry.model_type}


def partials(model: str, models_dir: Path) -> list[Path]:
    """What there is of interrupted downloads of a model: folders in which they go on."""
    return [path for path in models_dir.glob(f".{glob.escape(model)}.download-*") if path.is_dir()]


def read_marker(folder: Path) -> dict[str, Any]:
    """What a folder of models says of itself: source, sha256, downloaded_at; {} if it is not whole."""
    return _read(folder / MARKER)


def is_remote(entry: ModelEntry) -> bool:
    """Whether its files come from elsewhere, and are ours to delete."""
    return entry.source.startswith(("pypi:", "hf:"))


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _quantization(config: dict[str, Any]) -> dict[str, Any] | None:
    found = config.get("quantization") or config.get("quantization_config")
    if not isinstance(found, dict) or "bits" not in found:
        return None
    return {"bits": found["bits"], "group_size": found.get("group_size")}
