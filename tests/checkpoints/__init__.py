"""Tiny speech models with random weights, in the folders that `mlx_audio.stt.load` loads.

The configurations and the names of the weights are those of the converted checkpoints on the hub; only
the sizes are not. With `says` a model hears one text in everything.
"""

from tests.checkpoints.parakeet import parakeet
from tests.checkpoints.qwen3 import qwen3_asr, qwen3_forced_aligner
from tests.checkpoints.whisper import whisper_multilingual

__all__ = ["parakeet", "qwen3_asr", "qwen3_forced_aligner", "whisper_multilingual"]
