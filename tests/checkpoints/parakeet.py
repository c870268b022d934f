"""Parakeet."""

from pathlib import Path
from typing import Any

from tests.checkpoints.files import save, weights_of


def parakeet(path: Path, seed: int = 0) -> Path:
    """Write a Parakeet TDT: NeMo's configuration, of which mlx-audio reads a part.

    It does not name the kind of model, which mlx-audio then takes from the folder's: "parakeet-...".
    """
    import mlx.core as mx
    from mlx_audio.stt.models.parakeet import Model, ModelConfig

    path.mkdir(parents=True, exist_ok=True)
    config = _config()
    mx.random.seed(seed)
    return save(path, config, weights_of(Model(ModelConfig.from_dict(config))))


def _config() -> dict[str, Any]:
    pieces = ["<unk>", *(f"▁{word}" for word in ("the", "fox", "and", "river", "ran")), ".", "?", "s", "ing"]
    hidden = 16
    return {
        "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
        "model_defaults": {"tdt_durations": [0, 1, 2, 3, 4], "enc_hidden": 32, "pred_hidden": hidden},
        "preprocessor": {
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "dither": 1e-5,
        },
        "encoder": {
            "feat_in": 80,
            "n_layers": 2,
            "d_model": 32,
            "n_heads": 2,
            "ff_expansion_factor": 2,
            "subsampling_factor": 8,
            "self_attention_model": "rel_pos",
            "subsampling": "dw_striding",
            "conv_kernel_size": 9,
            "subsampling_conv_channels": 8,
            "pos_emb_max_len": 5000,
        },
        "decoder": {
            "blank_as_pad": True,
            "vocab_size": len(pieces),
            "prednet": {"pred_hidden": hidden, "pred_rnn_layers": 1},
        },
        "joint": {
            "num_classes": len(pieces),
            "num_extra_outputs": 5,
            "vocabulary": pieces,
            "jointnet": {
                "joint_hidden": hidden,
                "activation": "relu",
                "encoder_hidden": 32,
                "pred_hidden": hidden,
            },
        },
        "decoding": {
            "model_type": "tdt",
            "strategy": "greedy",
            "durations": [0, 1, 2, 3, 4],
            "greedy": {"max_symbols": 10},
        },
    }
