import json
from pathlib import Path

import pytest

from shared.disk import describe, is_whole
from shared.manifest import ModelEntry

HUB = ModelEntry(id="some-4bit", engine="llm", source="hf:org/some-4bit")


def make(folder: Path, config: dict, marker: dict | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "weights").mkdir()
    (folder / "weights" / "a").write_bytes(b"x" * 1000)
    if marker:
        (folder / "ominix.json").write_text(json.dumps(marker))


def test_a_downloaded_model_is_described(tmp_path: Path) -> None:
    config = {"quantization": {"bits": 4, "group_size": 64, "mode": "affine"}}
    make(tmp_path / "some-4bit", config, {"source": HUB.source, "sha256": "", "downloaded_at": 1234.5})
    facts = describe(HUB, tmp_path)

    assert is_whole(HUB, tmp_path)
    assert facts["size_bytes"] > 1000
    assert facts | {"size_bytes": 0} == {
        "path": str(tmp_path / "some-4bit"), "repo_id": "org/some-4bit", "model_type": "llm",
        "quantization": {"bits": 4, "group_size": 64}, "downloaded_at": 1234, "size_bytes": 0,
    }  # fmt: skip


@pytest.mark.parametrize("marker", [None, {"source": "hf:other/some-4bit", "sha256": ""}])
def test_a_folder_without_the_mark_of_its_source_is_not_whole(tmp_path: Path, marker: dict | None) -> None:
    make(tmp_path / "some-4bit", {}, marker)
    assert not is_whole(HUB, tmp_path)


def test_a_folder_of_ones_own_needs_no_mark(tmp_path: Path) -> None:
    own = ModelEntry(id="own", engine="llm", source=str(tmp_path / "own"))
    assert not is_whole(own, tmp_path)

    make(tmp_path / "own", {})
    assert is_whole(own, tmp_path)
    assert describe(own, tmp_path)["quantization"] is None


def test_an_engine_without_files_is_always_whole(tmp_path: Path) -> None:
    echo = ModelEntry(id="echo", engine="echo")
    assert is_whole(echo, tmp_path)
    assert describe(echo, tmp_path)["path"] is None
