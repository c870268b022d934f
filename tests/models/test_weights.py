"""Weights come down once, are whole or not there, and every failure says what to do."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from shared.manifest import ModelEntry
from tests import tiny
from tests.hub import Hub
from workers import sources, weights

pytestmark = pytest.mark.models

ROOT = Path(__file__).parent.parent.parent
ENSURE = """
import sys
from pathlib import Path
import msgspec
from shared.manifest import ModelEntry
from workers import weights
entry = msgspec.json.decode(sys.argv[1], type=ModelEntry)
weights.ensure(entry, Path(sys.argv[2]), lambda phase, done, total: print(phase, flush=True))
assert not any(name.split(".")[0] == "mlx" for name in sys.modules)
"""


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and one whose conversion writes 190 MB: long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, feed_forward in (("tinyllama", 64), ("widellama", 500_000)):
        tiny.wheel(folder, name, tiny.llama_gguf(folder / "model.gguf", feed_forward))
    return folder


@pytest.fixture
def offline_pip(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds only what lies in a folder of this machine."""
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheels), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)


@pytest.fixture
def entry(wheels: Path, offline_pip: None) -> ModelEntry:
    return wheel_entry(wheels, "tinyllama")


@pytest.fixture
def wide(wheels: Path, offline_pip: None) -> ModelEntry:
    return wheel_entry(wheels, "widellama")


def wheel_entry(wheels: Path, name: str) -> ModelEntry:
    digest = sources.file_hash(next(wheels.glob(f"{name}-*.whl")))
    return ModelEntry(id="tiny", engine="llm", source=f"pypi:{name}==1.0", sha256=digest)


def start(entry: ModelEntry, models_dir: Path) -> subprocess.Popen:
    """`ensure` in a process of its own."""
    command = [sys.executable, "-c", ENSURE, msgspec.json.encode(entry).decode(), str(models_dir)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def half_written(models_dir: Path) -> bool:
    return any(models_dir.glob(".tiny.partial-*/model/*.safetensors"))


def converter_of(process: subprocess.Popen) -> psutil.Process:
    children = psutil.Process(process.pid).children()
    return next(child for child in children if "workers.conversion" in child.cmdline())


def leftovers(models_dir: Path) -> list[str]:
    return [
        path.name for path in models_dir.iterdir() if not path.name.endswith(".lock") and path.name != "tiny"
    ]


def load(folder: Path) -> None:
    import mlx_lm

    mlx_lm.load(str(folder))


def test_the_starters_need_no_network_the_second_time(
    starters, models_dir, smollm2, whisper, minilm, monkeypatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    phases = []
    for entry in starters.entries:
        weights.ensure(entry, models_dir, lambda phase, done, total: phases.append(phase))
    assert phases == []
    assert weights.describe(starters.resolve("whisper-1"), models_dir)["size_bytes"] > 70_000_000


def test_a_wheel_is_downloaded_converted_and_described(entry, tmp_path):
    phases = []
    folder = weights.ensure(entry, tmp_path, lambda phase, done, total: phases.append(phase))
    assert folder == tmp_path / "tiny"
    assert (phases[0], phases[-1]) == ("download", "convert")
    facts = weights.describe(entry, tmp_path)
    assert facts["path"] == str(folder) and facts["size_bytes"] > 50_000
    assert facts["downloaded_at"] <= time.time() and facts["quantization"] is None
    assert leftovers(tmp_path) == []
    load(folder)


def test_a_killed_converter_leaves_nothing_half(wide, tmp_path):
    process = start(wide, tmp_path)
    wait_for(lambda: half_written(tmp_path))
    converter_of(process).kill()
    _, errors = process.communicate()
    assert "WeightsError: tiny: Conversion was ended by signal 9" in errors
    assert not weights.is_ready(wide, tmp_path) and leftovers(tmp_path) == []
    load(weights.ensure(wide, tmp_path))


def test_what_a_killed_process_left_is_removed(wide, tmp_path):
    process = start(wide, tmp_path)
    wait_for(lambda: half_written(tmp_path))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not weights.is_ready(wide, tmp_path) and leftovers(tmp_path) != []
    load(weights.ensure(wide, tmp_path))
    assert leftovers(tmp_path) == []


def test_the_converter_of_a_killed_process_is_not_written_over(wide, tmp_path):
    process = start(wide, tmp_path)
    wait_for(lambda: half_written(tmp_path))
    process.kill()
    load(weights.ensure(wide, tmp_path))
    process.communicate()
    assert leftovers(tmp_path) == []


def test_two_processes_make_a_model_once(entry, tmp_path):
    processes = [start(entry, tmp_path) for _ in range(2)]
    phases = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("convert" in seen for seen in phases) == 1
    load(tmp_path / "tiny")


def test_a_folder_made_for_another_device_is_made_again(entry, tmp_path):
    marker_path = weights.ensure(entry, tmp_path) / weights.MARKER
    marker = json.loads(marker_path.read_text())
    marker_path.write_text(json.dumps(marker | {"made_for": "another"}))
    assert not weights.is_ready(entry, tmp_path)
    weights.ensure(entry, tmp_path)
    assert json.loads(marker_path.read_text())["made_for"] == marker["made_for"]
    assert leftovers(tmp_path) == []


def test_a_wheel_with_another_hash_is_refused(entry, tmp_path):
    wrong = msgspec.structs.replace(entry, sha256="0" * 64)
    with pytest.raises(weights.WeightsError, match="tiny: .*sha256 .*models.toml expects 0000"):
        weights.ensure(wrong, tmp_path)
    assert leftovers(tmp_path) == []


def test_no_network_is_said_so(entry, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(weights.WeightsError, match="tinyllama==1.0.*Check the network"):
        weights.ensure(entry, tmp_path)


def test_a_python_without_pip_borrows_one(entry, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    found = sources.fetch_wheel("tinyllama==1.0", entry.sha256, tmp_path / "got", lambda *news: None)
    assert (found / "tinyllama/model.gguf").is_file()


def test_a_place_that_cannot_be_written_is_named(entry, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(weights.WeightsError, match="file/models cannot be written: .*OMINIX_HOME"):
        weights.ensure(entry, tmp_path / "file/models")


def test_a_local_folder_is_used_as_it_is(tmp_path):
    entry = ModelEntry(id="mine", engine="llm", source=str(tmp_path / "mine"))
    with pytest.raises(weights.WeightsError, match="config.json is missing"):
        weights.ensure(entry, tmp_path / "models")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text('{"quantization": {"bits": 4, "group_size": 64}}')
    assert weights.ensure(entry, tmp_path / "models") == tmp_path / "mine"
    facts = weights.describe(entry, tmp_path / "models")
    assert facts["quantization"] == {"bits": 4, "group_size": 64}


def test_the_echo_engine_needs_no_weights(tmp_path):
    entry = ModelEntry(id="echo", engine="echo")
    assert weights.is_ready(entry, tmp_path)
    weights.ensure(entry, tmp_path)
    assert weights.describe(entry, tmp_path)["path"] is None


REPO = "org/Tiny-4bit"
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "speech/vocab.txt"}


def repo(**config: object) -> dict[str, bytes]:
    files = dict.fromkeys(WANTED | {"README.md", "pytorch_model.bin", "onnx/config.json"}, b"{}")
    files["model.safetensors"] = bytes(range(256)) * 4096
    files["config.json"] = json.dumps(config).encode()
    return files


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    speech = repo(model_type="qwen3_asr", quantization={"group_size": 64, "bits": 8})
    closed = repo(model_type="llama")
    with Hub({REPO: speech, "org/Closed": closed}, gated={"org/Closed"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def hub_entry(source: str) -> ModelEntry:
    return ModelEntry(id="tiny", engine="llm", tasks=("chat",), source=source)


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_only_what_a_model_needs_comes_from_the_hub_and_only_once(hub, tmp_path, revision):
    entry = hub_entry(f"hf:{REPO}{revision}")
    folder = weights.ensure(entry, tmp_path)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == WANTED | {weights.MARKER}
    assert hub.downloaded() == WANTED
    assert (folder / "model.safetensors").read_bytes() == hub.repos[REPO]["model.safetensors"]
    facts = weights.describe(entry, tmp_path)
    assert (facts["repo_id"], facts["quantization"]) == (REPO, {"bits": 8, "group_size": 64})
    hub.requests.clear()
    weights.ensure(entry, tmp_path)
    assert hub.requests == [] and leftovers(tmp_path) == []


def test_the_engine_follows_from_the_config_once_it_is_there(hub, tmp_path):
    entry = hub_entry(f"hf:{REPO}")
    assert weights.settle(entry, tmp_path) == entry
    weights.ensure(entry, tmp_path)
    settled = weights.settle(entry, tmp_path)
    assert (settled.engine, settled.tasks) == ("asr", ("transcription", "translation"))


def test_an_interrupted_download_is_never_loaded_and_goes_on(hub, tmp_path, monkeypatch):
    entry = hub_entry(f"hf:{REPO}")
    hub.break_after = 100_000
    with pytest.raises(weights.WeightsError, match="Try|try"):
        weights.ensure(entry, tmp_path)
    assert not weights.is_ready(entry, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", dead)
    with pytest.raises(weights.WeightsError, match="Check the network"):
        weights.ensure(entry, tmp_path)
    assert not weights.is_ready(entry, tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.break_after = None
    folder = weights.ensure(entry, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == hub.repos[REPO]["model.safetensors"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hf:org/Absent", "no hub repo org/Absent"),
        (f"hf:{REPO}@v9", "no revision 'v9'"),
        ("hf:org/Closed", "HF_TOKEN"),
    ],
)
def test_a_repo_that_cannot_be_had_says_what_to_do(hub, tmp_path, source, words):
    with pytest.raises(weights.WeightsError, match=words):
        weights.ensure(hub_entry(source), tmp_path)


def test_the_token_opens_a_gated_repo(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    weights.ensure(hub_entry("hf:org/Closed"), tmp_path)
    assert hub.tokens == {"Bearer hf_secret"}
