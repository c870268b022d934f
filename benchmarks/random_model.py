"""A model folder with real shapes and random weights: for measuring speed where no hub is reachable.

    python benchmarks/random_model.py --shape qwen3-0.6b --tokenizer DIR OUT

Speed depends on shapes and not on values. The tokenizer may be smaller than the vocabulary (it is
any folder with a tokenizer.json): the embedding rows of ids that it does not have, and of its
special tokens, are scaled down, so that greedy decoding never chooses them. So every id can be
decoded, and no answer ends before its limit.
"""

import shutil
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_act": "silu",
    "attention_bias": False,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "max_position_embeddings": 40960,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": QWEN3
    | {"num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16},
    "qwen3-4b": QWEN3
    | {"num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32},
    "tiny": QWEN3
    | {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "head_dim": 16},
}
EMBEDDING = 0.02  # standard deviation; a layer's is 1/sqrt(inputs), far above: else tokens repeat
UNLIKELY = 0.1  # of EMBEDDING: such a row's logit stays far below the largest of thousands
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "chat_template*", "vocab.json", "merges.txt")


def build(shape: str, tokenizer: Path, out: Path, dtype: str = "bfloat16", seed: int = 0) -> int:
    """Write the folder and return the number of parameters. Raises FileNotFoundError, KeyError."""
    words = msgspec.json.decode((tokenizer / "tokenizer.json").read_bytes())
    special = [token["id"] for token in words["added_tokens"] if token["special"]]
    size = len(words["model"]["vocab"].keys() | {token["content"] for token in words["added_tokens"]})
    out.mkdir(parents=True, exist_ok=True)
    for pattern in TOKENIZER_FILES:
        for file in tokenizer.glob(pattern):
            shutil.copyfile(file, out / file.name)
    eos = _eos(tokenizer, words["added_tokens"])
    config = SHAPES[shape] | {"torch_dtype": dtype, "eos_token_id": eos}
    (out / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    (out / "generation_config.json").write_bytes(msgspec.json.encode({"eos_token_id": eos}))
    return _weights(config, special, size, out, seed)


def _eos(tokenizer: Path, added: list[dict]) -> int | None:
    told = msgspec.json.decode((tokenizer / "tokenizer_config.json").read_bytes()).get("eos_token")
    name = told["content"] if isinstance(told, dict) else told
    return next((token["id"] for token in added if token["content"] == name), None)


def _weights(config: dict, special: list[int], size: int, out: Path, seed: int) -> int:
    """The parameters that mlx-lm's own model class has, so that names and shapes are the real ones."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import qwen3

    mx.random.seed(seed)
    dtype = getattr(mx, config["torch_dtype"])
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        if value.ndim == 1:  # a norm: ones, as it is initialised
            weights[name] = value.astype(dtype)
        else:
            scale = EMBEDDING if "embed" in name else value.shape[-1] ** -0.5
            weights[name] = (mx.random.normal(value.shape) * scale).astype(dtype)
            mx.eval(weights[name])
    embedding = weights["model.embed_tokens.weight"]
    unlikely = mx.arange(embedding.shape[0]) >= size
    unlikely[mx.array(special)] = True
    weights["model.embed_tokens.weight"] = mx.where(unlikely[:, None], embedding * UNLIKELY, embedding)
    mx.save_safetensors(f"{out / 'model.safetensors'}", weights, metadata={"format": "mlx"})
    return sum(value.size for value in weights.values())


def main(
    out: Path,
    tokenizer: Annotated[Path, typer.Option(help="A folder with tokenizer.json and tokenizer_config.json.")],
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "qwen3-0.6b",
    dtype: Annotated[str, typer.Option(help="bfloat16; float32 is faster on a CPU.")] = "bfloat16",
    seed: int = 0,
) -> None:
    """Write a model of random weights to OUT."""
    if shape not in SHAPES:
        raise typer.BadParameter(f"{shape}: one of {', '.join(SHAPES)}")
    print(f"{out}: {shape}, {build(shape, tokenizer, out, dtype, seed):,} parameters, {dtype}")


if __name__ == "__main__":
    typer.run(main)
