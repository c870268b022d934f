"""What downloads and deletions leave behind."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from shared.errors import Conflict
from shared.manifest import ModelEntry
from workers import weights

OLD = 8 * 24 * 3600  # seconds


def folder(models_dir: Path, name: str, age: float = 0.0) -> Path:
    made = models_dir / name
    made.mkdir()
    (made / "part").write_text("x")
    for path in (made / "part", made):
        os.utime(path, (time.time() - age,) * 2)
    return made


def left(models_dir: Path) -> set[str]:
    return {path.name for path in models_dir.iterdir() if path.is_dir()}


def test_downloads_that_nobody_goes_on_with_are_removed(tmp_path):
    folder(tmp_path, ".Old.download-1", OLD)
    folder(tmp_path, ".New.download-1")
    folder(tmp_path, ".Gone.deleted-1")
    folder(tmp_path, "Whole", OLD)
    weights.tidy(tmp_path)
    assert left(tmp_path) == {".New.download-1", "Whole"}


def test_a_download_under_way_is_left_alone_and_cannot_be_withdrawn(tmp_path):
    folder(tmp_path, ".Busy.download-1", OLD)
    with open(tmp_path / ".Busy.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        weights.tidy(tmp_path)
        with pytest.raises(weights.WeightsError) as refused:
            weights.withdraw(ModelEntry(id="Busy", engine="llm", source="hf:org/Busy"), tmp_path)
    assert left(tmp_path) == {".Busy.download-1"}
    assert refused.value.kind is Conflict


def test_what_was_fetched_for_a_model_goes_with_it(tmp_path):
    for name in ("M", "M.adapter", "M-aligner", "M2", ".M.download-1"):
        folder(tmp_path, name)
    entry = ModelEntry(id="M", engine="llm", source="hf:org/M", options={"adapter": "hf:org/adapter"})
    gone = weights.withdraw(entry, tmp_path)
    assert all(path.is_dir() and weights.DELETED in path.name for path in gone) and len(gone) == 3
    weights.tidy(tmp_path)
    assert left(tmp_path) == {"M-aligner", "M2"}
