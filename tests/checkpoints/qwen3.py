"""Qwen3-ASR and its forced aligner."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.checkpoints.files import features, save, weights_of, write, write_tokenizer

CONTROLS = [
    f"<|{name}|>" for name in ("endoftext", "im_start", "im_end", "audio_start", "audio_end", "audio_pad")
]
MARKS = ["<asr_text>", "<timestamp>"]  # not special, as on the hub
LANGUAGES = ["Chinese", "English", "Cantonese", "German", "French", "Japanese", "Korean", "Filipino"]
AUDIO = {
    "num_mel_bins": 128,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": 32,
    "output_dim": 64,
    "n_window": 50,
    "n_window_infer": 800,
    "conv_chunksize": 500,
    "downsample_hidden_size": 8,
    "max_source_positions": 1500,
}
DECODER = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
SHARPENED = ("o_proj.weight", "down_proj.weight", "q_norm.weight")


def qwen3_asr(
    path: Path, seed: int = 0, says: str | None = None, sharp: float = 6.0, ends: float = 1.5
) -> Path:
    """Write a Qwen3-ASR. Its attention is made `sharp`, so that the text differs with the audio; at 1.0
    it runs in circles. `ends` makes the tokens that end a text likelier: at 0.0 there is hardly an end."""
    import mlx.core as mx  # late: what runs in this process may still have to preload a BLAS
    from mlx_audio.stt.models.qwen3_asr import Model, ModelConfig

    tokenizer = _folder(path)
    config = _config(tokenizer, "qwen3_asr", {})
    mx.random.seed(seed)
    model = Model(ModelConfig.from_dict(config))
    weights = weights_of(model)
    if says is not None:
        _speak(weights, tokenizer.encode(f"\n{says}<|im_end|>").ids)
        return save(path, config, weights)
    _sharpen(weights, sharp)
    for token in ("<|endoftext|>", "<|im_end|>"):
        weights["model.embed_tokens.weight"][tokenizer.token_to_id(token)] *= ends
    return save(path, config, weights)


def qwen3_forced_aligner(path: Path, seed: int = 0) -> Path:
    """Write a Qwen3-ForcedAligner, which tells times of up to 8 s."""
    import mlx.core as mx
    from mlx_audio.stt.models.qwen3_asr import Model, ModelConfig

    tokenizer = _folder(path)
    special = {"timestamp_token_id": tokenizer.token_to_id("<timestamp>"), "timestamp_segment_time": 80}
    config = _config(tokenizer, "qwen3_forced_aligner", {"classify_num": 100}) | special
    mx.random.seed(seed)
    weights = weights_of(Model(ModelConfig.from_dict(config)))
    _sharpen(weights, 6.0)
    return save(path, config, weights)


def _sharpen(weights: dict[str, Any], sharp: float) -> None:
    for name in weights:
        if name.startswith("model.layers") and name.endswith(SHARPENED):
            weights[name] *= sharp


def _speak(weights: dict[str, Any], script: list[int]) -> None:
    """Make a decoder say `script[1:]`, whose tokens differ, behind `script[0]`.

    Its attention is silent, and the first layer's neuron number i turns token i into its successor.
    """
    import mlx.core as mx

    assert len(set(script)) == len(script), "a token occurs twice"
    embedding = weights["model.embed_tokens.weight"]
    tokens, following = embedding[mx.array(script[:-1])], embedding[mx.array(script[1:])]
    for name in weights:
        if name.endswith(("o_proj.weight", "mlp.down_proj.weight")) and name.startswith("model."):
            weights[name] = mx.zeros_like(weights[name])
    layer = "model.layers.0.mlp"
    units = weights[f"{layer}.gate_proj.weight"].shape[0]
    neurons = mx.pad(tokens, [(0, units - len(tokens)), (0, 0)])
    weights[f"{layer}.gate_proj.weight"] = weights[f"{layer}.up_proj.weight"] = neurons
    weights[f"{layer}.down_proj.weight"] = mx.pad(following, [(0, units - len(tokens)), (0, 0)]).T


def _folder(path: Path) -> Tokenizer:
    """Write the tokenizer and the configuration of the features."""
    tokenizer = write_tokenizer(path, CONTROLS, MARKS)
    write(path / "preprocessor_config.json", features(128))
    return tokenizer


def _config(tokenizer: Tokenizer, kind: str, thinker: dict[str, Any]) -> dict[str, Any]:
    size = tokenizer.get_vocab_size()
    audio = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("audio_start", "audio_end", "audio_pad")}
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": LANGUAGES,
        "thinker_config": {
            "model_type": kind,
            "audio_config": {"model_type": "qwen3_asr_audio_encoder"} | AUDIO,
            "text_config": DECODER | {"vocab_size": size},
            "audio_token_id": audio["audio_pad"],
            "audio_start_token_id": audio["audio_start"],
            "audio_end_token_id": audio["audio_end"],
        }
        | thinker,
    }
