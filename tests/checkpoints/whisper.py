"""A multilingual Whisper."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models

from tests.checkpoints.files import byte_level, features, save, trained, weights_of, write

WHISPER = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 32,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "n_vocab": 51865,
    "n_text_ctx": 448,
    "n_text_state": 32,
    "n_text_head": 2,
    "n_text_layer": 2,
}


def whisper_multilingual(
    path: Path,
    seed: int = 0,
    says: str = " Hello world. Good morning!",
    speaks: str = "en",
    until: float = 2.0,
) -> Path:
    """Write a Whisper of the multilingual vocabulary, with all its languages and timestamps.

    In every window it hears the language `speaks`, and `says`, whose tokens must differ, from 0 to `until`
    seconds.
    """
    import mlx.core as mx
    from mlx_audio.stt.models.whisper import Model
    from mlx_audio.stt.models.whisper.whisper import ModelDimensions

    path.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(path)
    write(path / "preprocessor_config.json", features(80))
    write(path / "generation_config.json", {"alignment_heads": [[0, 0], [1, 1]]})
    mx.random.seed(seed)
    weights = weights_of(Model(ModelDimensions(**WHISPER), mx.float32))
    script = tokenizer.encode(f"<|0.00|>{says}<|{until:.2f}|><|endoftext|>").ids
    start, language, *tasks = (
        tokenizer.token_to_id(f"<|{name}|>")
        for name in ("startoftranscript", speaks, "transcribe", "translate")
    )
    follows = [
        (start, language),
        *((task, script[0]) for task in tasks),
        *zip(script, script[1:], strict=False),
    ]
    _speak(weights, follows)
    return save(path, {"model_type": "whisper"} | WHISPER, weights)


def _speak(weights: dict[str, Any], follows: list[tuple[int, int]]) -> None:
    """Make a decoder say, after the first token of each pair, the second.

    Its attention is silent, and the first layer's neuron number i turns one token into its successor.
    """
    import mlx.core as mx

    name = "decoder.token_embedding.weight"
    spoken = mx.array(sorted({token for pair in follows for token in pair}))
    weights[name][spoken] *= 3  # so that they stand out of 51,865
    tokens, following = (weights[name][mx.array(side)] for side in zip(*follows, strict=True))
    width = tokens.shape[1]
    for layer in range(WHISPER["n_text_layer"]):
        for part in ("attn.out", "cross_attn.out", "mlp2"):
            for kind in ("weight", "bias"):
                weights[f"decoder.blocks.{layer}.{part}.{kind}"] *= 0
    normal = tokens - tokens.mean(axis=-1, keepdims=True)
    normal = normal / mx.sqrt((normal**2).mean(axis=-1, keepdims=True))
    spare = [(0, weights["decoder.blocks.0.mlp1.weight"].shape[0] - len(follows)), (0, 0)]
    weights["decoder.blocks.0.mlp1.weight"] = mx.pad(normal, spare)
    weights["decoder.blocks.0.mlp1.bias"] = mx.full(len(weights["decoder.blocks.0.mlp1.bias"]), -width / 2)
    weights["decoder.blocks.0.mlp2.weight"] = mx.pad(following, spare).T


def _tokenizer(path: Path) -> Tokenizer:
    """50,257 tokens of text, of which only the bytes and the words of TEXT are ever made of text."""
    from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES as CODES

    from workers.engines.asr.ct2 import _tokenizer_config, with_timestamps

    bpe = json.loads(trained().to_str())["model"]
    vocabulary = bpe["vocab"] | {f"unused{at}": at for at in range(len(bpe["vocab"]), 50257)}
    tokenizer = byte_level(models.BPE(vocabulary, [tuple(merge) for merge in bpe["merges"]]))
    codes = [code for code in CODES if code != "yue"]  # large-v3 has one more
    tasks = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    names = ["endoftext", "startoftranscript", *codes, *tasks]
    tokenizer.add_special_tokens(
        [AddedToken(f"<|{name}|>", special=True, normalized=False) for name in names]
    )
    with_timestamps(tokenizer, WHISPER["n_vocab"]).save(str(path / "tokenizer.json"))
    write(path / "tokenizer_config.json", _tokenizer_config())
    return tokenizer
