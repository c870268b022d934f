"""Which models the embedding engine loads, and what it makes of their folders. They are tiny and random."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, processors

from shared.manifest import ModelEntry
from tests.checkpoints.files import save, trained, weights_of, write
from tests.engines.bert_in_numpy import Bert

pytestmark = pytest.mark.models

TEXTS = ["Hello world.", "Good morning! How are you today?", "naïve 東京 🙂", "language English " * 20, "a"]
END = "<|endoftext|>"
QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 200,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}


def tokenizer_of(path: Path) -> Tokenizer:
    """Write a tokenizer that ends every text with END, and its configuration."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = trained()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    tokenizer.save(str(path / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END}
    write(path / "tokenizer_config.json", told | {"model_max_length": 256})
    return tokenizer


def steps(path: Path, pooling: str, *more: str) -> None:
    """Write the files of sentence-transformers."""
    kinds = ["Transformer", "Pooling", *more]
    places = ["", "1_Pooling", *(f"{at}_{kind}" for at, kind in enumerate(more, 2))]
    told = [
        {"idx": at, "name": f"{at}", "path": place, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    (path / "modules.json").write_text(json.dumps(told))
    (path / "1_Pooling").mkdir()
    flags = dict.fromkeys(("pooling_mode_mean_tokens", "pooling_mode_cls_token"), False)
    told = {"word_embedding_dimension": 64} | flags | {f"pooling_mode_{pooling}": True}
    write(path / "1_Pooling" / "config.json", told)


def qwen3(path: Path, prefix: str = "model.") -> tuple[Any, Tokenizer]:
    """Write a decoder without its head, as Qwen3-Embedding is. Returns mlx-lm's model and the tokenizer."""
    import mlx.core as mx
    from mlx_lm.models.qwen3 import Model, ModelArgs

    tokenizer = tokenizer_of(path)
    config = QWEN3 | {"vocab_size": tokenizer.get_vocab_size()}
    mx.random.seed(1)
    model = Model(ModelArgs.from_dict(config))
    layers = {k: v for k, v in weights_of(model).items() if k.startswith("model.")}
    save(path, config, {k.replace("model.", prefix, 1): v for k, v in layers.items()})
    return model, tokenizer


def bert(path: Path, kind: str = "bert", prefix: str = "") -> Tokenizer:
    """Write an encoder with the names that it has on the hub."""
    import mlx.core as mx

    tokenizer = tokenizer_of(path)
    config = BERT | {"model_type": kind, "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 1}
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], 64),
        "embeddings.position_embeddings.weight": (200, 64),
        "embeddings.token_type_embeddings.weight": (2, 64),
        "pooler.dense.weight": (64, 64),
        "pooler.dense.bias": (64,),
    }
    norms = ["embeddings.LayerNorm"]
    linears: dict[str, tuple[int, int]] = {}
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        linears |= {f"{layer}.attention.self.{part}": (64, 64) for part in ("query", "key", "value")}
        linears |= {f"{layer}.attention.output.dense": (64, 64)}
        linears |= {f"{layer}.intermediate.dense": (96, 64), f"{layer}.output.dense": (64, 96)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    mx.random.seed(2)
    weights = {name: mx.random.normal(shape) * 0.3 for name, shape in shapes.items()}
    for norm in norms:
        weights[f"{norm}.weight"] = mx.random.uniform(0.5, 2, (64,))
        weights[f"{norm}.bias"] = mx.random.normal((64,))
    save(path, config, {f"{prefix}{name}": value for name, value in weights.items()})
    return tokenizer


def embed(encoder: Any, texts: list[str] = TEXTS) -> np.ndarray:
    """All texts in one batch."""
    rows = [encoder.tokenizer.encode(text).ids for text in texts]
    return np.array(encoder.vectors(rows, max(map(len, rows)) + 3))


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def load(path: Path, **options: object) -> Any:
    from workers.engines import embedding

    return embedding.load_model(path, None, embedding.Options(**options))


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("described", [True, False])
def test_a_decoder_embeds_by_the_last_token_of_each_row(tmp_path: Path, prefix: str, described: bool) -> None:
    import mlx.core as mx

    model, tokenizer = qwen3(tmp_path, prefix)
    if described:
        steps(tmp_path, "lasttoken", "Normalize")
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    assert {row[-1] for row in ids} == {tokenizer.token_to_id(END)}
    expected = np.stack([np.array(model.model(mx.array([row]))[0, -1]) for row in ids])

    encoder = load(tmp_path)
    found = embed(encoder)

    assert (encoder.longest, encoder.dimensions) == (256, 64)
    assert cosines(found, expected).min() >= 0.9999
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert cosines(found[:1], found[1:2]).item() < 0.99


@pytest.mark.parametrize(("kind", "prefix", "offset"), [("bert", "", 0), ("xlm-roberta", "roberta.", 2)])
def test_an_encoder_is_that_of_an_independent_forward_pass(
    tmp_path: Path, kind: str, prefix: str, offset: int
) -> None:
    tokenizer = bert(tmp_path / "hub", kind, prefix)
    bert(tmp_path / "plain", kind)
    reference = Bert(tmp_path / "plain", offset)
    ids = [tokenizer.encode(text).ids for text in TEXTS]

    encoder = load(tmp_path / "hub")

    assert encoder.longest == 200 - offset
    assert cosines(embed(encoder), np.stack([reference.embed(row) for row in ids])).min() >= 0.9999


def test_the_folder_says_how_to_pool_and_normalise_and_the_manifest_may_overrule(tmp_path: Path) -> None:
    tokenizer = bert(tmp_path)
    steps(tmp_path, "cls_token")
    last_layer = Bert(tmp_path)
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    firsts = np.stack([last_layer(row)[0] for row in ids])

    assert np.allclose(embed(load(tmp_path)), firsts, atol=2e-2)
    assert np.allclose(np.linalg.norm(embed(load(tmp_path, normalize=True)), axis=1), 1, atol=1e-5)
    means = np.stack([last_layer.embed(row) for row in ids])
    assert cosines(embed(load(tmp_path, pooling="mean")), means).min() >= 0.9999


def test_the_longest_input_is_what_the_folder_says_and_the_manifest_may_raise_it(tmp_path: Path) -> None:
    from workers.engines import embedding

    bert(tmp_path)
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 50, "do_lower_case": True})
    assert load(tmp_path).longest == 50
    assert load(tmp_path).recipe.lower
    assert embedding.load_model(tmp_path, 120).longest == 120
    assert embedding.load_model(tmp_path, 1000).longest == 200  # it has no more positions


def test_a_quantised_encoder_is_loaded_as_mlx_embeddings_has_written_it(tmp_path: Path) -> None:
    import mlx.core as mx

    bert(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "small")
    weights = mx.load(str(tmp_path / "plain" / "model.safetensors"))
    for name in [name for name in weights if name.endswith("weight") and weights[name].ndim == 2]:
        if weights[name].shape[-1] % 32 == 0:
            packed, scales, biases = mx.quantize(weights[name], 32, 8)
            stem = name.removesuffix("weight")
            weights |= {name: packed, f"{stem}scales": scales, f"{stem}biases": biases}
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    save(tmp_path / "small", config | {"quantization": {"group_size": 32, "bits": 8}}, weights)

    assert cosines(embed(load(tmp_path / "small")), embed(load(tmp_path / "plain"))).min() > 0.999


@pytest.mark.parametrize(
    ("pooling", "more", "words"),
    [
        ("weightedmean_tokens", (), "pooling pooling_mode_weightedmean_tokens"),
        ("mean_tokens", ("Dense", "Normalize"), "step Dense"),
    ],
)
def test_what_is_not_served_is_said_at_load(tmp_path: Path, pooling: str, more: tuple, words: str) -> None:
    from workers.engines import embedding

    bert(tmp_path)
    steps(tmp_path, pooling, *more)
    with pytest.raises(embedding.UnsupportedModel, match=f"mine: the {words}.* is not served"):
        embedding.load(ModelEntry(id="mine", engine="embedding", source=str(tmp_path)), tmp_path)


@pytest.mark.skipif(bool(importlib.util.find_spec("mlx_embeddings")), reason="mlx-embeddings is installed")
@pytest.mark.parametrize("kind", ["modernbert", "gemma3_text", "qwen3"])
def test_other_models_name_the_extra_that_they_need(tmp_path: Path, kind: str) -> None:
    from workers.engines import embedding

    bert(tmp_path)
    steps(tmp_path, "mean_tokens")  # a Qwen3 that reads both ways is not mlx-lm's
    config = json.loads((tmp_path / "config.json").read_text())
    write(tmp_path / "config.json", config | {"model_type": kind})
    with pytest.raises(embedding.UnsupportedModel, match=rf"{kind}.* pip install 'ominix\[embeddings\]'"):
        load(tmp_path)


def test_gelu_on_a_cpu_is_gelu() -> None:
    import mlx.core as mx
    from mlx import nn

    from workers.engines.embedding.gelu import gelu

    x = mx.linspace(-12, 12, 100_001)
    assert mx.allclose(gelu(x), nn.gelu(x), rtol=1e-5, atol=2e-6).item()
