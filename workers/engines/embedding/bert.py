"""BERT and RoBERTa encoders, from checkpoints with the names of transformers' `BertModel`.

https://arxiv.org/abs/1810.04805. RoBERTa differs in where its positions begin: behind its padding token.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
from mlx import nn

from workers import memory
from workers.engines.embedding.gelu import gelu
from workers.engines.embedding.recipe import UnsupportedModel

OFFSET = {"bert": False, "roberta": True, "xlm-roberta": True, "camembert": True}
PREFIXES = ("bert.", "roberta.", "embeddings.")
UNUSED = ("pooler.", "position_ids", "lm_head.", "cls.")
NAMES = {
    "encoder.layer.": "layers.",
    "attention.self.": "attention.",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
    "LayerNorm": "norm",
}
ACTIVATIONS = {"gelu": nn.gelu, "gelu_new": nn.gelu_approx, "relu": nn.relu}


class Config(msgspec.Struct, frozen=True):
    """The fields of config.json that count."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    position_embedding_type: str = "absolute"

    @property
    def offset(self) -> int:
        """The position of the first token."""
        return self.pad_token_id + 1 if OFFSET[self.model_type] else 0

    @property
    def positions(self) -> int:
        """How many tokens have one."""
        return self.max_position_embeddings - self.offset


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.scale = (width // self.heads) ** -0.5
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def __call__(self, hidden: mx.array, mask: mx.array) -> mx.array:
        query, key, value = (self._split(part(hidden)) for part in (self.query, self.key, self.value))
        mixed = mx.fast.scaled_dot_product_attention(query, key, value, scale=self.scale, mask=mask)
        return self.output(mixed.swapaxes(1, 2).flatten(2))

    def _split(self, hidden: mx.array) -> mx.array:
        return mx.unflatten(hidden, -1, (self.heads, -1)).swapaxes(1, 2)


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        exact = config.hidden_act == "gelu" and not memory.compact()
        self._activation = gelu if exact else ACTIVATIONS[config.hidden_act]

    def __call__(self, hidden: mx.array, mask: mx.array) -> mx.array:
        hidden = self.attention_norm(hidden + self.attention(hidden, mask))
        return self.norm(hidden + self.down(self._activation(self.up(hidden))))


class Bert(nn.Module):
    """`bert(tokens, lengths)`: [rows, length] token ids, of which `lengths` [rows] count, to
    [rows, length, width], the last layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.layers = [Layer(config) for _ in range(config.num_hidden_layers)]
        self._offset = config.offset

    def __call__(self, tokens: mx.array, lengths: mx.array) -> mx.array:
        places = mx.arange(tokens.shape[1])
        hidden = self.word_embeddings(tokens) + self.token_type_embeddings(mx.zeros_like(tokens))
        hidden = self.norm(hidden + self.position_embeddings(places + self._offset))
        mask = (places < lengths[:, None])[:, None, None]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden


def load(path: Path, raw: dict[str, Any]) -> tuple[Bert, Config]:
    """The encoder of a folder whose config.json is `raw`: in float32, or where the device likes 16 bits in
    float16 (bfloat16 turns vectors by a cosine of 0.0002).

    Raises UnsupportedModel, and ValueError for weights that do not fit.
    """
    config = msgspec.convert(raw, Config)
    if config.hidden_act not in ACTIVATIONS or config.position_embedding_type != "absolute":
        raise UnsupportedModel(
            f"a BERT with {config.hidden_act} and {config.position_embedding_type} positions is not served"
        )
    weights: dict[str, mx.array] = {}
    for file in sorted(path.glob("*.safetensors")):
        weights |= {_renamed(name): value for name, value in mx.load(str(file)).items()}
    weights.pop("", None)
    model = Bert(config)
    if quantized := raw.get("quantization"):
        nn.quantize(
            model, quantized["group_size"], quantized["bits"],
            class_predicate=lambda name, _: f"{name}.scales" in weights,
        )  # fmt: skip
    model.load_weights(list(weights.items()))
    model.set_dtype(mx.float16 if memory.compact() else mx.float32)
    mx.eval(model.parameters())
    return model, config


def _renamed(name: str) -> str:
    """The name of a weight here; "" for one that is not used."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    if name.startswith(UNUSED):
        return ""
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name
