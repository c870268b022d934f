"""Speech recognition over mlx-audio: chunks of all requests share the model's batch.

Recordings are read as streams (`audio.py`), cut at silences (`chunker.py`) ahead of the engine
(`ears.py`), and heard by a recognizer: Whisper (`whisper/`), Qwen3-ASR (`qwen3.py`), or any other model's
own `generate`, one chunk at a time (`onebyone.py`).
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
from mlx_audio import stt
from mlx_audio.stt.models.whisper import Model as Whisper

from shared.manifest import ModelEntry
from shared.settings import read_settings
from workers import memory, weights
from workers.engines.asr.audio import RATE
from workers.engines.asr.engine import AsrEngine, Options
from workers.engines.asr.onebyone import OneByOneRecognizer
from workers.engines.asr.precision import to_float32
from workers.engines.asr.qwen3 import Qwen3Recognizer
from workers.engines.asr.recognizer import Asked, Recognizer
from workers.engines.asr.whisper import WhisperRecognizer

__all__ = ["AsrEngine", "Options", "load", "load_model"]


def load(entry: ModelEntry, path: Path) -> AsrEngine:
    """The model in the folder `path`, warmed up. In the engine thread, which must stay the only one.

    Raises msgspec.ValidationError for unknown `options`, WeightsError for an aligner that is not to be
    had, and what mlx-audio raises for a folder that it cannot load.
    """
    options = msgspec.convert(entry.options, Options)
    memory.set_wired_limit()
    recognizer = load_model(path, entry.max_concurrency, options.aligner)
    _warm_up(recognizer)
    return AsrEngine(recognizer, options)


def load_model(path: Path, rows: int, aligner: str = "") -> Recognizer:
    """A recognizer that hears `rows` chunks at once, if its model can."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    model = _load(path, config)
    if isinstance(model, Whisper):
        return WhisperRecognizer(model, rows)
    if config.get("model_type") == "qwen3_asr":
        return Qwen3Recognizer(model, config, rows, _aligner(path, aligner))
    return OneByOneRecognizer(model, config)


def _load(path: Path, config: dict[str, Any]) -> Any:
    # mlx-audio guesses the type of NeMo's configs from the folder's name
    model = stt.load(path, **({"model_type": "parakeet"} if "target" in config else {}))
    if memory.compact():
        return model
    if isinstance(model, Whisper):
        return to_float32(model)
    model.set_dtype(mx.float32)  # a CPU takes ten times as long at 16 bits
    return model


def _aligner(path: Path, source: str) -> Any:
    """The aligner of the options: a folder, or a hub repo that is downloaded once beside the model."""
    if not source:
        return None
    entry = ModelEntry(id=f"{path.name}-aligner", engine="asr", source=source)
    folder = weights.ensure(entry, read_settings().models_dir)
    return _load(folder, json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _warm_up(recognizer: Recognizer) -> None:
    """Hear a second of a tone: silence makes some models run wild."""
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE, dtype=np.float32) / RATE)
    recognizer.add("warm-up", tone.astype(np.float32), Asked())
    while not recognizer.step():
        pass
    mx.clear_cache()
