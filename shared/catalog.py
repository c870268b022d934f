"""Every model there is: those of the models file, those that were asked for besides, and what has been
downloaded since."""

import logging
import threading
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from shared import disk, kinds
from shared.errors import BadRequest, Conflict
from shared.management import STEWARD
from shared.management.download import Request as Download
from shared.manifest import HUB, ID, TASKS, Manifest, ManifestError, ModelEntry
from shared.settings import Settings

SETTLED = 0.1  # seconds after which a time of change is no longer that of two changes

log = logging.getLogger("ominix.catalog")


class Catalog:
    """The manifest as it is now: it is read again when the models file or the folder of models has changed.
    Any thread may ask."""

    def __init__(self, settings: Settings) -> None:
        """Raises ManifestError."""
        self._settings = settings
        self._lock = threading.Lock()
        self._seen: Any = self._state()
        self._manifest = load(settings)
        self._problem = ""

    @property
    def manifest(self) -> Manifest:
        with self._lock:
            state = self._state()
            if state != self._seen or state is None:
                self._read()
                self._seen = state
            return self._manifest

    def _read(self) -> None:
        try:
            manifest = load(self._settings)
        except ManifestError as error:
            if self._problem != str(error):
                log.error("the models stay as they were: %s", error)
            self._problem = str(error)
            return
        self._problem = ""
        if manifest.entries != self._manifest.entries:
            self._manifest = manifest

    def _state(self) -> tuple[int | None, int | None] | None:
        """When both were changed; None if one was just now, and may be again without being seen."""
        times = [_changed(self._settings.models_file), _changed(self._settings.models_dir)]
        if any(at and time.time() - at / 1e9 < SETTLED for at in times):
            return None
        return times[0], times[1]


def load(settings: Settings) -> Manifest:
    """The models as they are now. Raises ManifestError."""
    named = Manifest.load(settings.models_file)
    manifest = named
    for source in filter(None, map(str.strip, settings.extra_models.split(","))):
        manifest = manifest.with_source(source)
    extra = manifest.entries[len(named.entries) :]
    entries = (*named.entries, *(_settled(entry, settings.models_dir) for entry in extra))
    return Manifest((*entries, *_downloaded(manifest, settings)), manifest.origin)


def target(manifest: Manifest, asked: Download) -> ModelEntry:
    """The model that a download makes: one of the models file that wants this repo, or a new one.

    Raises BadRequest, and Conflict if another model has its name.
    """
    for entry in manifest.entries:
        if entry.source == asked.source or (entry.repo_id == asked.repo_id and not asked.revision):
            return entry
    if not ID.fullmatch(asked.id) or asked.id == STEWARD:
        raise BadRequest(f"'repo_id': a model cannot be called '{asked.id}' here.", param="repo_id")
    if other := manifest.find(asked.id):
        raise Conflict(
            f"'{asked.id}' is the name of another model, from {other.source or other.engine}. Delete that "
            "one first, or give this one an id of its own in the models file.",
            param="repo_id",
        )
    return ModelEntry(id=asked.id, engine="llm", tasks=TASKS["llm"], source=asked.source)


def _settled(entry: ModelEntry, models_dir: Path) -> ModelEntry:
    """With the engine that its files ask for, in place of one that was guessed from a name."""
    if not disk.is_whole(entry, models_dir):
        return entry
    return _with_kind(entry, kinds.kind_of(models_dir / entry.id))


def _with_kind(entry: ModelEntry, kind: str) -> ModelEntry:
    return entry if kind == entry.engine else replace(entry, engine=kind, tasks=TASKS.get(kind, ()))


def _downloaded(manifest: Manifest, settings: Settings) -> list[ModelEntry]:
    """What is whole in the folder of models, and in no file. A folder is a model's own if it is called as
    the last part of its repo: what lies beside a model (an aligner, an adapter) is not."""
    sources = {entry.source for entry in manifest.entries}
    found: list[ModelEntry] = []
    for folder in sorted(_folders(settings.models_dir)):
        source = disk.read_marker(folder).get("source")
        match = HUB.fullmatch(source) if isinstance(source, str) else None
        if not match or match["repo"].split("/")[1] != folder.name or source in sources:
            continue
        if ID.fullmatch(folder.name) and folder.name != STEWARD and not manifest.find(folder.name):
            entry = ModelEntry(
                id=folder.name, engine="llm", tasks=TASKS["llm"], source=source, replicas=0,
                keep_alive=settings.keep_alive,
            )  # fmt: skip
            found.append(_with_kind(entry, kinds.kind_of(folder)))
    return found


def _folders(models_dir: Path) -> list[Path]:
    try:
        return [path for path in models_dir.iterdir() if path.name[0] != "."]
    except OSError:
        return []


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
