"""From audio and text to the embeddings that Qwen3-ASR and its forced aligner read.

The same numbers as in mlx_audio/stt/models/qwen3_asr, within float32, computed by MLX as a whole: there
the spectrogram and the embeddings are made frame by frame in Python.
"""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_audio.stt.models.whisper.audio import log_mel_spectrogram

from workers.engines.asr.audio import RATE

SHORTEST = 1.0  # seconds: shorter audio is padded with silence, as mlx-audio does


def encode(model: Any, samples: np.ndarray) -> mx.array:
    """Features [positions, width] of `samples` [n], 16 kHz mono."""
    if samples.ndim != 1:
        raise ValueError(f"samples have the shape {samples.shape}, expected one channel [n]")
    missing = int(SHORTEST * RATE) - len(samples)
    audio = mx.array(np.pad(samples, (0, missing)) if missing > 0 else samples, mx.float32)
    mel = log_mel_spectrogram(audio, n_mels=model.config.audio_config.num_mel_bins)
    return model.audio_tower(mel.T[None])


def embed(model: Any, ids: np.ndarray, features: mx.array) -> mx.array:
    """Embeddings [1, positions, width] of the prompt `ids` [positions] with `features` in place of its
    audio tokens, which are one run."""
    first = int(np.argmax(ids == model.config.audio_token_id))
    last = first + features.shape[0]
    if not (ids[first:last] == model.config.audio_token_id).all():
        raise ValueError("the prompt has not as many audio tokens as the audio has positions")
    text = model.model.embed_tokens(mx.array(np.concatenate([ids[:first], ids[last:]])))
    audio = features.astype(text.dtype)
    return mx.concatenate([text[:first], audio, text[first:]])[None]


def without_controls(text: str, tokenizer: Any) -> str:
    """`text` without what the tokenizer would take for one of its control tokens."""
    for token in tokenizer.get_added_vocab():
        text = text.replace(token, " ")
    return text
