"""What a model will need of the machine's memory, told from its files before it is loaded.

The process itself, the weights (from the headers of the safetensors files: as they are on a GPU, in float32
on a CPU, where quantised ones stay quantised), and what requests take beside them: a language model's cache
for as many tokens as `cache_tokens` says, the activations of a full batch. An estimate errs on the large
side; what a worker was seen to take counts as well, once there is one.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import disk
from shared.manifest import ModelEntry
from workers.memory import IDLE_SHARE, Device, likely_device

MIB = 1 << 20
BASE = {"echo": 64 * MIB}  # of a process of this engine without a model
WITH_MLX = 200 * MIB
LONGEST = 8192  # tokens of the one long request that there is always room for
EACH = 1024  # tokens of each request, while all slots are taken
STEP = 2048  # tokens of prompts that a language model reads at once
INPUTS = 4096, 32_768  # tokens that an embedding model computes at once, on a CPU and on a GPU
EXTRA = 2  # chunks that a speech model hears beside those of its rows
WINDOW = 1500  # frames that Whisper's encoder makes of one chunk
CHUNK = 30 * 16_000 * 4  # bytes of one that waits to be heard
ALIVE = 12  # arrays of a layer's width that are alive at once while it is computed
HALF = 2  # bytes of a number of half precision
HEADER = 100 << 20  # bytes of a safetensors header at most, as its format has it

Json = dict[str, Any]


def estimate(entry: ModelEntry, models_dir: Path, device: Device | None = None) -> int:
    """Bytes that one worker of this model takes at most, loading included. What is not on disk, or has a
    config that nobody could load, counts for nothing."""
    if entry.engine == "echo":
        return BASE["echo"] + entry.options.get("ballast_mb", 0) * MIB
    compact = (device or likely_device()) != "cpu"
    loaded, loading, working = 0, 0, 0
    for folder in _folders(entry, models_dir):
        whole, wider = weights(folder, compact)
        loaded += whole
        loading = max(loading, wider)
        with contextlib.suppress(TypeError, ValueError, AttributeError, ArithmeticError):
            working += _work(entry, _config(folder), HALF if compact else 2 * HALF)
    kept = 0 if entry.engine == "asr" else (loaded + working) // (IDLE_SHARE - 1)  # for later, see `memory`
    return WITH_MLX + loaded + max(loading, working + kept)


def weights(folder: Path, compact: bool) -> tuple[int, int]:
    """Bytes of a folder's weights in memory, and of what is there beside them while they are widened."""
    loaded = widened = 0
    for file in folder.glob("*.safetensors"):
        for kind, size in _tensors(file):
            wide = not compact and kind in ("F16", "BF16")
            loaded += 2 * size if wide else size
            widened += size if wide else 0
    return loaded, widened


def cache_tokens(slots: int, context: int) -> int:
    """For how many tokens there is to be room: EACH for every slot, or one request of LONGEST."""
    return max(min(context, LONGEST), slots * min(context, EACH))


def cache_bytes(config: Json, tokens: int, slots: int, size: int) -> int:
    """What attention keeps of so many tokens, each number taking `size` bytes. A layer that attends to
    a window keeps that much; a recurrent one a state, which is small."""
    config = config | (config.get("text_config") or {})
    layers = [window for window in _layers(config) if window != 0]
    if rank := config.get("kv_lora_rank"):  # deepseek's: one compressed vector
        width = rank + config.get("qk_rope_head_dim", 0)
    else:
        heads = config.get("num_key_value_heads") or config.get("num_attention_heads") or 1
        heads = max(heads) if isinstance(heads, list) else heads
        width = 2 * heads * _head(config)
    return sum(min(tokens, slots * window) if window else tokens for window in layers) * width * size


def _work(entry: ModelEntry, config: Json, size: int) -> int:
    """What requests take beside the weights, each number `size` bytes."""
    slots = entry.max_concurrency
    if entry.engine == "asr":
        return _hearing(config, slots + EXTRA, size)
    inner = config | (config.get("text_config") or {})
    width = inner.get("hidden_size", 0) * ALIVE + inner.get("intermediate_size", 0)
    if entry.engine == "embedding":
        return INPUTS[size == HALF] * width * size
    context = entry.context_length or inner.get("max_position_embeddings") or LONGEST
    cache = cache_bytes(config, cache_tokens(slots, context), slots, size)
    return cache + STEP * width * size + slots * inner.get("vocab_size", 0) * 4 * ALIVE


def _hearing(config: Json, rows: int, size: int) -> int:
    """Whisper's own names of its sizes, or those of a speech model around a language model."""
    audio = config.get("audio_config") or config.get("encoder") or config
    width = audio.get("n_audio_state") or audio.get("d_model") or audio.get("hidden_size") or 1024
    heads = audio.get("n_audio_head") or audio.get("encoder_attention_heads") or audio.get("n_heads") or 8
    layers = config.get("n_text_layer") or audio.get("decoder_layers") or 4
    each = WINDOW * (ALIVE * width + heads * WINDOW // 4) + 2 * layers * WINDOW * width
    text = config.get("text_config") or (config.get("thinker_config") or {}).get("text_config")
    waiting = 3 * rows * CHUNK  # and twice as many recordings are read meanwhile
    return waiting + rows * each * size + (cache_bytes(text, rows * EACH * 2, rows, size) if text else 0)


def _layers(config: Json) -> list[int]:
    """Of each layer how many tokens it attends to: None all, 0 none since it is recurrent."""
    count = config.get("num_hidden_layers") or config.get("n_layers") or config.get("n_layer") or 0
    window = config.get("sliding_window")
    if kinds := config.get("layer_types"):
        known = {"full_attention": None, "attention": None, "sliding_attention": window or None}
        return [known.get(kind, 0) for kind in kinds]
    if pattern := config.get("hybrid_override_pattern"):  # nemotron_h
        return [None if kind == "*" else 0 for kind in pattern]
    if every := config.get("full_attention_interval") or config.get("attn_layer_period"):
        return [None if (layer + 1) % every == 0 else 0 for layer in range(count)]
    return [None] * count


def _head(config: Json) -> int:
    heads = config.get("num_attention_heads") or 1
    heads = max(heads) if isinstance(heads, list) else heads
    return config.get("head_dim") or config.get("hidden_size", 0) // heads


def _folders(entry: ModelEntry, models_dir: Path) -> Iterator[Path]:
    """The model's own, and those of what its options name beside it."""
    path = disk.folder(entry, models_dir)
    yield path
    for option, name in (
        ("adapter", f"{entry.id}.adapter"),
        ("draft_model", f"{entry.id}.draft_model"),
        ("aligner", f"{path.name}-aligner"),
    ):
        if source := entry.options.get(option):
            yield models_dir / name if source.startswith("hf:") else Path(source).expanduser()


def _tensors(file: Path) -> Iterator[tuple[str, int]]:
    """The data type and size in bytes of each tensor. Format: https://github.com/huggingface/safetensors

    Whoever loads a file that is broken says so; here it is as large as it is.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        raw = opened.read(min(length, HEADER))
    try:
        header = json.loads(raw)
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                yield tensor["dtype"], end - begin
    except (ValueError, LookupError, TypeError, AttributeError):
        yield "broken", file.stat().st_size


def _config(folder: Path) -> Json:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
