"""What is downloaded joins the models of the file, and the catalog sees it come and go."""

import json
from pathlib import Path

import pytest

from shared.catalog import Catalog, load, target
from shared.errors import BadRequest, Conflict
from shared.management import download
from shared.manifest import ManifestError
from shared.settings import Settings, read_settings

FILE = """
[[model]]
id = "echo"
engine = "echo"
aliases = ["Taken"]

[[model]]
id = "named"
engine = "llm"
source = "hf:org/Named"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "models.toml").write_text(FILE)
    (tmp_path / "models").mkdir()
    return read_settings({}, home=tmp_path, models_file=tmp_path / "models.toml")


def put(settings: Settings, name: str, source: str, **config: object) -> Path:
    """A folder as a download leaves it."""
    folder = settings.models_dir / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ominix.json").write_text(json.dumps({"source": source, "sha256": "", "downloaded_at": 1}))
    return folder


def asked(repo_id: str, revision: str | None = None) -> download.Request:
    return download.validate({"repo_id": repo_id, "revision": revision})


def ids(settings: Settings) -> list[str]:
    return [entry.id for entry in load(settings).entries]


def test_a_downloaded_model_is_known_with_its_kind_and_starts_on_demand(settings):
    put(settings, "New", "hf:org/New@v1", model_type="qwen3_asr")
    entry = load(settings).resolve("org/New")
    assert (entry.id, entry.engine, entry.tasks) == ("New", "asr", ("transcription", "translation"))
    assert (entry.replicas, entry.keep_alive) == (0, settings.keep_alive)


def test_the_file_wins_and_what_lies_beside_a_model_is_none(settings):
    put(settings, "named", "hf:org/Named")
    put(settings, "Named", "hf:org/Named")
    put(settings, "Taken", "hf:org/Taken")
    put(settings, "New-aligner", "hf:org/Aligner")
    put(settings, "steward", "hf:org/steward")
    put(settings, "wheel", "pypi:wheel==1")
    put(settings, ".Half.download-1", "hf:org/.Half.download-1")
    (settings.models_dir / "unmarked").mkdir()
    assert ids(settings) == ["echo", "named"]


def test_a_model_without_an_engine_is_known_for_what_it_is(settings):
    put(settings, "Voice", "hf:org/Voice", model_type="kokoro")
    entry = load(settings).resolve("Voice")
    assert (entry.model_type, entry.tasks) == ("tts", ())


def test_models_come_and_go_while_the_catalog_lives(settings):
    catalog = Catalog(settings)
    known = catalog.manifest
    assert known.find("New") is None
    folder = put(settings, "New", "hf:org/New", model_type="llama")
    assert catalog.manifest.find("New")
    folder.rename(settings.models_dir / ".New.deleted-1")
    assert catalog.manifest.find("New") is None
    settings.models_file.write_text(FILE + '[[model]]\nid = "more"\nengine = "echo"\n')
    assert catalog.manifest.find("more")


def test_a_models_file_that_is_broken_meanwhile_changes_nothing(settings):
    catalog = Catalog(settings)
    settings.models_file.write_text("[[model")
    assert catalog.manifest.find("echo")
    with pytest.raises(ManifestError):
        Catalog(settings)


def test_a_download_of_what_the_file_wants_goes_where_the_file_says(settings):
    manifest = load(settings)
    assert target(manifest, asked("org/Named")).id == "named"
    new = target(manifest, asked("org/New", "v1"))
    assert (new.id, new.source) == ("New", "hf:org/New@v1")


def test_a_name_that_is_taken_is_refused(settings):
    put(settings, "New", "hf:one/New", model_type="llama")
    manifest = load(settings)
    with pytest.raises(Conflict, match="'New' is the name of another model, from hf:one/New"):
        target(manifest, asked("two/New"))
    with pytest.raises(Conflict, match="'Taken'"):
        target(manifest, asked("org/Taken"))
    with pytest.raises(BadRequest, match="steward"):
        target(manifest, asked("org/steward"))
