"""Speech recognition over mlx-audio, one file at a time.

Whisper runs window by window (`whisper.py`), every other model by its own `generate` a chunk at a time
(`chunked.py`). What FFmpeg reads is accepted (`audio.py`).
"""

import json
from pathlib import Path

import mlx.core as mx
import msgspec
import numpy as np
from mlx_audio import stt
from mlx_audio.stt.models.whisper import Model as Whisper

from shared.manifest import ModelEntry
from workers import memory
from workers.engines.asr.audio import RATE
from workers.engines.asr.chunked import ChunkedRecognizer
from workers.engines.asr.engine import AsrEngine, Options
from workers.engines.asr.precision import to_float32
from workers.engines.asr.recognizer import Asked, Recognizer
from workers.engines.asr.whisper import WhisperRecognizer

__all__ = ["AsrEngine", "Options", "load", "load_model"]


def load(entry: ModelEntry, path: Path) -> AsrEngine:
    """The model in the folder `path`, warmed up. In the engine thread, which must stay the only one.

    Raises msgspec.ValidationError for unknown `options`, and what mlx-audio raises for a folder that it
    cannot load.
    """
    options = msgspec.convert(entry.options, Options)
    memory.set_wired_limit()
    recognizer = load_model(path)
    _warm_up(recognizer)
    return AsrEngine(recognizer, options)


def load_model(path: Path) -> Recognizer:
    model = stt.load(path)
    if isinstance(model, Whisper):
        return WhisperRecognizer(model if memory.compact() else to_float32(model))
    if not memory.compact():
        model.set_dtype(mx.float32)  # a CPU takes ten times as long at 16 bits
    return ChunkedRecognizer(model, json.loads((path / "config.json").read_text(encoding="utf-8")))


def _warm_up(recognizer: Recognizer) -> None:
    """Hear a second of a tone: silence makes some models run wild."""
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE, dtype=np.float32) / RATE)
    for _ in recognizer.run(tone.astype(np.float32), Asked()):
        pass
    mx.clear_cache()
