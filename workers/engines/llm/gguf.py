"""GGUF (llama architecture) to the folder that mlx-lm loads.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
`mx.load` unpacks Q4_0, Q4_1 and Q8_0 into MLX's own (weight, scales, biases); nothing is rounded
on the way to float32.
"""

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

GROUP = 32  # of GGUF's quantised blocks
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
DIGITS_APART = {"smollm"}  # values of tokenizer.ggml.pre that split numbers into digits
CONTROL = 3  # token type of <|im_end|> and its like


class UnsupportedGGUF(ValueError):
    """The file is of an architecture or tokenizer that is not converted here."""


def convert(source: Path, target: Path, compact: bool) -> str:
    """Write config.json, model.safetensors and the tokenizer of the one .gguf below `source`.

    `compact` writes bfloat16, else float32. bfloat16 and not the file's own 4 bits: at this size
    a step on a GPU is bound by launches and not by reading weights, dense products batch better,
    and they are the same code on Metal and CUDA. Returns the precision written.
    Raises UnsupportedGGUF.
    """
    path = next(source.rglob("*.gguf"))
    tensors, metadata = mx.load(str(path), return_metadata=True)
    if metadata.get("general.architecture") != "llama":
        raise UnsupportedGGUF(f"{path.name}: only the llama architecture is converted")
    config = _config(metadata, tied="output.weight" not in tensors)
    dtype = mx.bfloat16 if compact else mx.float32
    config["torch_dtype"] = "bfloat16" if compact else "float32"
    target.mkdir(parents=True, exist_ok=True)
    weights = _weights(tensors, config, dtype)
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    _write(target / "config.json", config)
    _write(target / "generation_config.json", {"eos_token_id": config["eos_token_id"]})
    _tokenizer(metadata).save(str(target / "tokenizer.json"))
    _write(target / "tokenizer_config.json", _tokenizer_config(metadata))
    return config["torch_dtype"]


def _config(metadata: dict[str, Any], tied: bool) -> dict[str, Any]:
    def number(key: str) -> int | float:
        return metadata[f"llama.{key}"].item()

    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": number("embedding_length"),
        "num_hidden_layers": number("block_count"),
        "intermediate_size": number("feed_forward_length"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "rope_theta": number("rope.freq_base"),
        "max_position_embeddings": number("context_length"),
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": tied,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"].item(),
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"].item(),
    }


def _weights(tensors: dict[str, mx.array], config: dict, dtype: mx.Dtype) -> dict[str, mx.array]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for name in tensors:
        if not name.endswith(".weight") or name == "rope_freqs.weight":
            continue
        stem = name.removesuffix(".weight")
        weight = _dense(tensors, stem)
        block, part = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)", stem).groups()
        if part in heads:
            weight = _unpermute(weight, heads[part])
        prefix = f"model.layers.{block}." if block else ""
        weights[f"{prefix}{NAMES[part]}.weight"] = weight.astype(dtype)
    return weights


def _dense(tensors: dict[str, mx.array], stem: str) -> mx.array:
    weight = tensors[f"{stem}.weight"]
    if weight.dtype != mx.uint32:
        return weight
    scales = tensors[f"{stem}.scales"]
    bits = weight.shape[-1] * 32 // (scales.shape[-1] * GROUP)
    biases = tensors[f"{stem}.biases"].astype(mx.float32)
    return mx.dequantize(weight, scales.astype(mx.float32), biases, group_size=GROUP, bits=bits)


def _unpermute(weight: mx.array, heads: int) -> mx.array:
    """GGUF interleaves the two halves of each rotary head; mlx-lm wants them one after the other."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        raise UnsupportedGGUF("only byte-level BPE tokenizers are converted")
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if metadata.get("tokenizer.ggml.pre") in DIGITS_APART:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, metadata["tokenizer.ggml.token_type"].tolist(), strict=True)
            if kind == CONTROL
        ]
    )
    return tokenizer


def _tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]

    def special(name: str) -> str | None:
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if index is None else tokens[index.item()]

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special("bos"),
        "eos_token": special("eos"),
        "unk_token": special("unknown"),
        "pad_token": special("padding"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"].item(),
        "chat_template": metadata.get("tokenizer.chat_template"),
    }


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
