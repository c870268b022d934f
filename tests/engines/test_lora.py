"""A model with a LoRA adapter says what mlx-lm says with it; a draft model is fetched the same way."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.manifest import ModelEntry
from tests.checkpoints import text
from tests.engines.drive import answer, chat
from tests.hub import Hub
from workers.weights import WeightsError

pytestmark = pytest.mark.models

STORY = "Tell me a story of a fox and a river, and a bridge."
TOKENS = 12
PARAMETERS = {"rank": 4, "scale": 8.0, "dropout": 0.5}
REPO = "org/Tiny-LoRA"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text.build(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(base, tmp_path_factory.mktemp("adapter"), seed=1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMINIX_HOME", str(tmp_path))
    monkeypatch.setenv("OMINIX_MODELS_FILE", str(tmp_path / "models.toml"))
    return tmp_path


@pytest.fixture
def hub(adapter: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An adapter as it is uploaded: with the checkpoints of its training, and with a model card."""
    files = {path.name: path.read_bytes() for path in adapter.iterdir()}
    files |= {"0000100_adapters.safetensors": b"early", "README.md": b"# Tiny"}
    model = {path.name: path.read_bytes() for path in base.iterdir()}
    with Hub({REPO: files, "org/Tiny": model}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def tuned(base: Path, folder: Path, *, seed: int, **parameters: Any) -> Path:
    """What `mlx_lm.lora` would write, after a training that led anywhere."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from workers.engines import llm

    model, _, _ = llm.load_model(base)
    parameters = PARAMETERS | parameters
    model.freeze()
    linear_to_lora_layers(model, 2, parameters)
    mx.random.seed(seed)
    weights = {n: 0.1 * mx.random.normal(w.shape) for n, w in tree_flatten(model.trainable_parameters())}
    assert weights
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def says(base: Path, **options: Any) -> str:
    """The greedy answer of a model that is served with these options."""
    from workers.engines import llm

    entry = ModelEntry(id="tiny", engine="llm", source=str(base), max_concurrency=2, options=options)
    engine = llm.load(entry, base)
    try:
        return answer(engine, chat(STORY, max_tokens=TOKENS, temperature=0)).result["choices"][0]["text"]
    finally:
        engine.close()


def says_in_mlx_lm(base: Path, adapter: Path) -> str:
    import mlx_lm

    model, tokenizer = mlx_lm.load(str(base), adapter_path=str(adapter))
    messages = chat(STORY).params["messages"]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    return mlx_lm.generate(model, tokenizer, prompt, max_tokens=TOKENS)


def test_an_adapter_changes_what_a_model_says_as_in_mlx_lm(base: Path, adapter: Path) -> None:
    adapted = says(base, adapter=str(adapter))
    assert adapted == says_in_mlx_lm(base, adapter) != ""
    assert adapted != says(base)


def test_two_entries_over_one_source_are_two_models(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = tuned(base, tmp_path, seed=2)
    assert says(base, adapter=str(other)) == says_in_mlx_lm(base, other) != says(base, adapter=str(adapter))


def test_a_folder_is_meant_from_where_models_toml_is(base: Path, home: Path) -> None:
    (home / "mine").mkdir()
    other = tuned(base, home / "mine", seed=3)
    assert says(base, adapter="mine") == says_in_mlx_lm(base, other)


def test_an_adapter_comes_from_the_hub_once_and_without_its_history(
    hub: Hub, base: Path, adapter: Path
) -> None:
    assert says(base, adapter=f"hf:{REPO}") == says_in_mlx_lm(base, adapter)
    assert hub.downloaded() == {"adapter_config.json", "adapters.safetensors"}
    hub.requests.clear()
    says(base, adapter=f"hf:{REPO}")
    assert hub.requests == []


def test_a_draft_model_comes_from_the_hub_and_changes_nothing(hub: Hub, base: Path, home: Path) -> None:
    assert says(base, draft_model="hf:org/Tiny", draft_tokens=2) == says(base)
    assert "model.safetensors" in hub.downloaded()


def test_a_draft_model_with_other_tokens_is_refused(base: Path, home: Path) -> None:
    other = text.build(home / "other", "llama", tools=True)
    with pytest.raises(WeightsError, match="options.draft_model: .*other tokens"):
        says(base, draft_model=str(other))


def break_weights(folder: Path) -> None:
    (folder / "adapters.safetensors").write_bytes(b"not weights")


def lose_weights(folder: Path) -> None:
    (folder / "adapters.safetensors").unlink()


def break_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def lose_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def of_peft(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')


def of_another_rank(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    config["lora_parameters"]["rank"] = 2
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (break_weights, "safetensors"),
        (lose_weights, "adapters.safetensors"),
        (break_config, "not JSON"),
        (lose_config, "adapter_config.json is missing"),
        (of_peft, "PEFT"),
        (of_another_rank, "shape"),
    ],
)
def test_a_broken_adapter_is_an_error_that_names_the_option(
    base: Path, home: Path, spoil: Callable[[Path], object], why: str
) -> None:
    (home / "broken").mkdir()
    spoil(tuned(base, home / "broken", seed=1))
    with pytest.raises(WeightsError, match="options.adapter: ") as refused:
        says(base, adapter="broken")
    assert why in str(refused.value)


@pytest.mark.parametrize("option", ["adapter", "draft_model"])
@pytest.mark.parametrize("source", ["pypi:wheel==1.0", "hf:nothing", "hf:org/Absent", "nowhere"])
def test_what_is_not_to_be_had_is_an_error_that_names_the_option(
    hub: Hub, base: Path, option: str, source: str
) -> None:
    with pytest.raises(WeightsError, match=f"options.{option}: "):
        says(base, **{option: source})
