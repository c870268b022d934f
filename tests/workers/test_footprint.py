"""What a model will take, told from its files."""

import json
import struct
from pathlib import Path

import pytest

from shared.manifest import Manifest, ModelEntry
from shared.settings import read_settings
from workers import footprint
from workers.footprint import MIB, cache_bytes, cache_tokens, estimate

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 4096,
}
EACH = 2 * 2 * 8  # numbers that a layer of it keeps of a token


def save(folder: Path, config: dict, *tensors: tuple[str, int]) -> Path:
    """A model's folder with tensors of so many bytes, all of them nought."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {"__metadata__": {"format": "mlx"}}, 0
    for number, (kind, size) in enumerate(tensors):
        header[f"t{number}"] = {"dtype": kind, "shape": [size], "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(file.tell() + end)
    return folder


def test_weights_are_widened_on_a_cpu_and_quantised_ones_are_not(tmp_path: Path):
    folder = save(tmp_path, LLAMA, ("BF16", 100), ("F32", 40), ("U32", 1000))
    assert footprint.weights(folder, compact=True) == (1140, 0)
    assert footprint.weights(folder, compact=False) == (1240, 100)


def test_there_is_room_for_every_slot_or_one_long_request():
    assert cache_tokens(slots=16, context=8192) == 16 * 1024
    assert cache_tokens(slots=2, context=8192) == 8192
    assert cache_tokens(slots=2, context=131_072) == 8192
    assert cache_tokens(slots=16, context=512) == 16 * 512


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        ({}, 4),
        ({"layer_types": ["linear_attention"] * 3 + ["full_attention"]}, 1),
        ({"full_attention_interval": 2}, 2),
        ({"hybrid_override_pattern": "M-M*"}, 1),
    ],
)
def test_only_layers_that_attend_keep_what_they_have_read(change: dict, layers: int):
    assert cache_bytes(LLAMA | change, tokens=10, slots=2, size=2) == layers * 10 * EACH * 2


def test_a_layer_with_a_window_keeps_no_more_than_that_of_each_slot():
    config = LLAMA | {"layer_types": ["sliding_attention"] * 4, "sliding_window": 100}
    assert cache_bytes(config, tokens=1000, slots=2, size=2) == 4 * 200 * EACH * 2


def test_sizes_of_a_model_that_also_sees_are_those_of_its_language_model():
    assert cache_bytes({"text_config": LLAMA}, 10, 1, 2) == cache_bytes(LLAMA, 10, 1, 2)


def test_a_compressed_cache_counts_as_such():
    config = LLAMA | {"kv_lora_rank": 12, "qk_rope_head_dim": 4}
    assert cache_bytes(config, tokens=10, slots=1, size=2) == 4 * 10 * 16 * 2


def test_more_slots_and_a_draft_model_take_more(tmp_path: Path):
    folder = save(tmp_path / "model", LLAMA, ("BF16", 5 * MIB))
    draft = save(tmp_path / "draft", LLAMA, ("BF16", 2 * MIB))
    entry = ModelEntry(id="m", engine="llm", source=str(folder), max_concurrency=8)
    few = ModelEntry(id="m", engine="llm", source=str(folder), max_concurrency=1, context_length=128)
    both = ModelEntry(id="m", engine="llm", source=str(folder), options={"draft_model": str(draft)})
    sizes = [estimate(each, tmp_path, "metal") for each in (few, entry, both)]
    assert footprint.WITH_MLX + 5 * MIB < sizes[0] < sizes[1] < sizes[2] - 2 * MIB
    assert estimate(entry, tmp_path, "cpu") > sizes[1] + 5 * MIB


def test_an_echo_takes_its_process_and_its_ballast(tmp_path: Path):
    light = ModelEntry(id="e", engine="echo")
    heavy = ModelEntry(id="e", engine="echo", options={"ballast_mb": 100})
    assert estimate(heavy, tmp_path) - estimate(light, tmp_path) == 100 * MIB


def test_a_model_that_is_not_there_and_one_that_is_broken_have_an_estimate_too(tmp_path: Path):
    absent = ModelEntry(id="absent", engine="asr", source="hf:org/absent")
    assert estimate(absent, tmp_path) >= footprint.WITH_MLX
    folder = save(tmp_path / "broken", LLAMA)
    (folder / "model.safetensors").write_bytes(b"short")
    (folder / "config.json").write_text('{"num_hidden_layers": "four", "num_attention_heads": 0}')
    broken = ModelEntry(id="broken", engine="llm", source=str(folder))
    assert estimate(broken, tmp_path) >= footprint.WITH_MLX


@pytest.mark.models
def test_the_starters_are_estimated_at_no_less_than_they_were_seen_to_take():
    """On a CPU, with all slots taken: 1271, 769 and 262 MiB."""
    settings = read_settings()
    starters = Manifest.load(settings.models_file)
    seen = {"smollm2-135m": 1271, "whisper-tiny.en": 769, "all-minilm-l6-v2": 262}
    for name, most in seen.items():
        size = estimate(starters.resolve(name), settings.models_dir, "cpu") // MIB
        assert most <= size <= 2 * most
