"""The manifest: what may be written in models.toml, and how a request finds its model."""

from pathlib import Path

import pytest

from shared.errors import NotFound
from shared.manifest import Manifest, ManifestError

ROOT = Path(__file__).parent.parent.parent
ECHO = '[[model]]\nid = "echo"\nengine = "echo"\n'
SHA = "0" * 64


def manifest(tmp_path: Path, text: str) -> Manifest:
    path = tmp_path / "models.toml"
    path.write_text(text)
    return Manifest.load(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        manifest(tmp_path, text)
    return str(caught.value)


def test_the_shipped_manifest_serves_chat_and_transcription():
    shipped = Manifest.load(ROOT / "models.toml")
    assert [e.id for e in shipped.for_task("chat")] == ["smollm2-135m"]
    assert [e.id for e in shipped.for_task("transcription")] == ["whisper-tiny.en"]
    assert shipped.resolve("whisper-1").id == "whisper-tiny.en"


def test_the_models_that_are_commented_out_are_valid(tmp_path):
    lines = (ROOT / "models.toml").read_text().splitlines()
    start = lines.index("# [[model]]")
    table = "\n".join(line.removeprefix("# ") for line in lines[start:])
    entries = manifest(tmp_path, table).entries
    assert [e.repo_id for e in entries] == [
        "mlx-community/Qwen3-4B-4bit",
        "mlx-community/Qwen3-ASR-0.6B-8bit",
        "mlx-community/Qwen3-ASR-1.7B-8bit",
        "mlx-community/whisper-large-v3-turbo",
        "mlx-community/parakeet-tdt-0.6b-v3",
    ]


def test_a_model_answers_to_its_id_its_aliases_and_its_whole_repo_id(tmp_path):
    text = '[[model]]\nid = "q"\nengine = "llm"\nsource = "hf:org/Big-4bit@v1"\naliases = ["gpt-4o"]\n'
    models = manifest(tmp_path, text)
    assert {models.resolve(name).id for name in ("q", "gpt-4o", "org/Big-4bit")} == {"q"}


def test_an_unknown_model_is_not_found_and_the_message_lists_what_there_is(tmp_path):
    with pytest.raises(NotFound) as caught:
        manifest(tmp_path, ECHO).resolve("gpt-5")
    error = caught.value
    assert (error.code, error.param, error.status) == ("model_not_found", "model", 404)
    assert "gpt-5" in error.message and "echo" in error.message


def test_tasks_follow_from_the_engine(tmp_path):
    entry = manifest(tmp_path, ECHO).entries[0]
    assert entry.tasks == ("chat", "completion", "transcription", "translation")
    assert entry.model_type == "llm"


def test_a_new_engine_says_its_tasks_itself(tmp_path):
    text = '[[model]]\nid = "m"\nengine = "tts"\nsource = "hf:org/m"\n'
    assert "tasks" in refusal(tmp_path, text)
    assert manifest(tmp_path, text + 'tasks = ["speech"]').for_task("speech")[0].id == "m"


def test_options_reach_the_engine_as_they_are(tmp_path):
    entry = manifest(tmp_path, ECHO + "options = { pace = 0.01 }").entries[0]
    assert entry.options == {"pace": 0.01}


def test_a_folder_is_meant_from_where_the_file_is(tmp_path):
    text = '[[model]]\nid = "mine"\nengine = "llm"\nsource = "models/mine"\n'
    assert manifest(tmp_path, text).entries[0].source == str(tmp_path.resolve() / "models/mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ECHO + "max_concurency = 2\n", ("max_concurency", "max_concurrency", "'echo'")),
        (ECHO + "replicas = -1\n", ("replicas", ">= 0", "'echo'")),
        (ECHO + 'timeout = "long"\n', ("timeout", "float")),
        (ECHO + ECHO, ("id", "'echo'", "unique")),
        (ECHO + '[[model]]\nid = "b"\nengine = "echo"\naliases = ["echo"]\n', ("aliases", "'b'")),
        ('[[model]]\nid = "a/b"\nengine = "echo"\n', ("id", "a/b")),
        ('[[model]]\nengine = "echo"\n', ("(no id)", "`id`")),
        ('[[model]]\nid = "m"\nengine = "llm"\n', ("source", "hf:org/repo")),
        ('[[model]]\nid = "m"\nengine = "llm"\nsource = "hf:m"\n', ("source", "hf:org/repo")),
        (f'[[model]]\nid = "m"\nengine = "llm"\nsource = "pypi:m"\nsha256 = "{SHA}"\n', ("source", "==")),
        ('[[model]]\nid = "m"\nengine = "llm"\nsource = "pypi:m==1"\n', ("sha256", "64")),
        ('[models]\nid = "m"\n', ("models", "[[model]]")),
        ('model = ["m"]\n', ("[[model]]",)),
        ("[[model\n", ("TOML",)),
    ],
)
def test_a_mistake_is_named_with_its_file_and_field(tmp_path, text, words):
    message = refusal(tmp_path, text)
    assert message.startswith(str(tmp_path / "models.toml"))
    assert all(word in message for word in words), message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ManifestError, match="absent.toml"):
        Manifest.load(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("source", "id", "engine"),
    [
        ("hf:mlx-community/Qwen3-4B-4bit", "Qwen3-4B-4bit", "llm"),
        ("hf:mlx-community/Qwen3-ASR-0.6B-8bit@main", "Qwen3-ASR-0.6B-8bit", "asr"),
        ("hf:mlx-community/whisper-tiny", "whisper-tiny", "asr"),
        ("hf:mlx-community/parakeet-tdt-0.6b-v3", "parakeet-tdt-0.6b-v3", "asr"),
    ],
)
def test_a_hub_repo_can_be_added(tmp_path, source, id, engine):
    models = manifest(tmp_path, ECHO).with_source(source)
    entry = models.resolve(id)
    assert (entry.engine, entry.source) == (engine, source)
    assert models.resolve(entry.repo_id) == entry
    assert models.with_source(source) is models
    assert models.resolve("echo").id == "echo"


@pytest.mark.parametrize("source", ["mlx-community/Qwen3", "hf:Qwen3", "hf:a/b/c", "pypi:a==1", ""])
def test_only_a_hub_repo_can_be_added(tmp_path, source):
    with pytest.raises(ManifestError, match="hf:org/repo"):
        manifest(tmp_path, ECHO).with_source(source)
