"""A CTranslate2 Whisper (as faster-whisper ships it) to the folder that mlx-audio loads.

Format of model.bin, version 6: `ModelSpec._serialize` in
https://github.com/OpenNMT/CTranslate2/blob/master/python/ctranslate2/specs/model_spec.py
Layer names: `WhisperSpec` beside it; fused projections are split into query, key and value.
"""

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np
from tokenizers import AddedToken, Tokenizer

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
FRAMES = 1501  # timestamp tokens: 0.00 to 30.00 seconds in steps of 0.02
PARTS = {
    "self_attention/layer_norm": "attn_ln",
    "self_attention/linear_0": ("attn.query", "attn.key", "attn.value"),
    "self_attention/linear_1": ("attn.out",),
    "attention/layer_norm": "cross_attn_ln",
    "attention/linear_0": ("cross_attn.query",),
    "attention/linear_1": ("cross_attn.key", "cross_attn.value"),
    "attention/linear_2": ("cross_attn.out",),
    "ffn/layer_norm": "mlp_ln",
    "ffn/linear_0": ("mlp1",),
    "ffn/linear_1": ("mlp2",),
}


class UnsupportedCT2(ValueError):
    """The file is not an unquantised CTranslate2 Whisper."""


def convert(source: Path, target: Path, compact: bool) -> str:
    """Write config.json, model.safetensors and the tokenizer of the one model.bin below `source`.

    The weights stay float16 on every device, since mlx-audio's loader casts to it anyway;
    `workers.engines.asr.precision` widens them on a CPU. Returns the precision, "any".
    Raises UnsupportedCT2.
    """
    folder = next(source.rglob("model.bin")).parent
    with open(folder / "model.bin", "rb") as file:
        variables = read_variables(file)
    original = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = _config(variables)
    target.mkdir(parents=True, exist_ok=True)
    weights = {name: mx.array(value) for name, value in _weights(variables).items()}
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    _write(target / "config.json", config)
    _write(target / "generation_config.json", {"alignment_heads": original["alignment_heads"]})
    _write(target / "preprocessor_config.json", _preprocessor(config["n_mels"]))
    tokenizer = with_timestamps(Tokenizer.from_file(str(folder / "tokenizer.json")), config["n_vocab"])
    tokenizer.save(str(target / "tokenizer.json"))
    _write(target / "tokenizer_config.json", _tokenizer_config())
    return "any"


def read_variables(file: BinaryIO) -> dict[str, np.ndarray]:
    """Every variable of a model.bin, by its name, in the shape it was written with."""
    (version,) = _read(file, "<I")
    name = _string(file)
    if name != "WhisperSpec" or version != 6:
        raise UnsupportedCT2(f"model.bin holds a {name} of version {version}, expected WhisperSpec of 6")
    _revision, count = _read(file, "<II")
    variables = {}
    for _ in range(count):
        name = _string(file)
        (rank,) = _read(file, "<B")
        shape = _read(file, f"<{rank}I")
        kind, size = _read(file, "<BI")
        if kind not in DTYPES:
            raise UnsupportedCT2(f"model.bin: {name} is of an unknown type ({kind})")
        variables[name] = np.frombuffer(file.read(size), DTYPES[kind]).reshape(shape)
    return variables


def with_timestamps(tokenizer: Tokenizer, n_vocab: int) -> Tokenizer:
    """Add the timestamp tokens, which faster-whisper's tokenizer lacks: without them the decoder
    cannot tell time from text, and runs on."""
    stamps = [f"<|{frame * 0.02:.2f}|>" for frame in range(FRAMES)]
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in stamps])
    if tokenizer.token_to_id(stamps[-1]) != n_vocab - 1:
        raise UnsupportedCT2("the tokenizer and the model disagree about the size of the vocabulary")
    return tokenizer


def _weights(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    weights = {
        "decoder.token_embedding.weight": variables["decoder/embeddings/weight"],
        "decoder.positional_embedding": variables["decoder/position_encodings/encodings"],
    }
    for conv in ("conv1", "conv2"):  # (out, in, kernel) to MLX's (out, kernel, in)
        weights[f"encoder.{conv}.weight"] = variables[f"encoder/{conv}/weight"].transpose(0, 2, 1)
        weights[f"encoder.{conv}.bias"] = variables[f"encoder/{conv}/bias"]
    for side, norm in (("encoder", "ln_post"), ("decoder", "ln")):
        weights |= _norm(variables, f"{side}/layer_norm", f"{side}.{norm}")
        for layer in range(_layers(variables, side)):
            weights |= _block(variables, f"{side}/layer_{layer}", f"{side}.blocks.{layer}")
    return {name: np.ascontiguousarray(value) for name, value in weights.items()}


def _block(variables: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    weights = {}
    for part, names in PARTS.items():
        if isinstance(names, str) and f"{old}/{part}/gamma" in variables:
            weights |= _norm(variables, f"{old}/{part}", f"{new}.{names}")
        elif f"{old}/{part}/weight" in variables:
            weights |= _linear(variables, f"{old}/{part}", [f"{new}.{name}" for name in names])
    return weights


def _norm(variables: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    return {f"{new}.weight": variables[f"{old}/gamma"], f"{new}.bias": variables[f"{old}/beta"]}


def _linear(variables: dict[str, np.ndarray], old: str, names: list[str]) -> dict[str, np.ndarray]:
    weights = {}
    for kind in ("weight", "bias"):
        pieces = np.split(variables[f"{old}/{kind}"], len(names))
        for name, piece in zip(names, pieces, strict=True):
            if not (kind == "bias" and name.endswith(".key")):  # Whisper's keys have none: zeros here
                weights[f"{name}.{kind}"] = piece
    return weights


def _layers(variables: dict[str, np.ndarray], side: str) -> int:
    return sum(
        name.startswith(f"{side}/layer_") and name.endswith("ffn/linear_0/weight") for name in variables
    )


def _config(variables: dict[str, np.ndarray]) -> dict[str, Any]:
    n_vocab, n_state = variables["decoder/embeddings/weight"].shape
    return {
        "model_type": "whisper",
        "n_mels": variables["encoder/conv1/weight"].shape[1],
        "n_audio_ctx": variables["encoder/position_encodings/encodings"].shape[0],
        "n_audio_state": n_state,
        "n_audio_head": int(variables["encoder/num_heads"]),
        "n_audio_layer": _layers(variables, "encoder"),
        "n_vocab": n_vocab,
        "n_text_ctx": variables["decoder/position_encodings/encodings"].shape[0],
        "n_text_state": n_state,
        "n_text_head": int(variables["decoder/num_heads"]),
        "n_text_layer": _layers(variables, "decoder"),
    }


def _preprocessor(n_mels: int) -> dict[str, Any]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": n_mels,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }


def _tokenizer_config() -> dict[str, Any]:
    end = "<|endoftext|>"
    return {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }


def _read(file: BinaryIO, layout: str) -> tuple:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _string(file: BinaryIO) -> str:
    (length,) = _read(file, "<H")
    return file.read(length).rstrip(b"\0").decode()


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
