"""What kind of model a folder holds, told from its config.json, and which engine serves it."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from shared.manifest import TASKS

CONFIG = "config.json"
STEPS = "modules.json"  # of sentence-transformers: the folder makes vectors
SPEECH = re.compile(
    r"asr|whisper|parakeet|canary|moonshine|sensevoice|voxtral|stt|speech2text|forced_aligner", re.IGNORECASE
)
VOICE = re.compile(
    r"tts|kokoro|bark|chatterbox|sesame|csm|voxcpm|kugelaudio|indextts|soprano|fish_(speech|qwen3)|melotts",
    re.IGNORECASE,
)
VOICES = {"dia", "spark", "orpheus", "outetts", "vibevoice", "kitten", "zonos2", "tada"}
SIGHT = ("vision_config", "vision_tower", "mm_vision_tower", "vit_config", "vision_tower_config")
ENCODERS = re.compile(r"(Bert|Roberta|RoBERTa|ModernBert|NomicBert|Electra|MPNet)\w*(Model|ForMaskedLM)$")
ENCODER_TYPES = {"bert", "roberta", "xlm-roberta", "camembert", "modernbert", "nomic_bert", "mpnet", "siglip"}
SAME = {"llava": "mistral3", "qwen2_5_vl": "qwen2_vl", "gemma4_unified": "gemma4"}  # as mlx-lm renames them


def kind_of(folder: Path) -> str:
    """One of "llm", "asr" and "embedding", which engines of that name serve, or "tts" or "vlm", which none
    does."""
    config = _config(folder)
    names = [config.get("model_type"), config.get("target"), *(config.get("architectures") or [])]
    names = [name for name in names if isinstance(name, str)]
    if any(VOICE.search(name) for name in names) or config.get("model_type") in VOICES:
        return "tts"
    if "n_mels" in config or any(SPEECH.search(name) for name in names):
        return "asr"
    if (folder / STEPS).is_file() or _encodes(config.get("model_type"), names):
        return "embedding"
    return "vlm" if _only_sees(config) else "llm"


def no_engine(model: str, kind: str) -> str:
    """The sentence for whoever asks such a model for something."""
    able = ", ".join(name for name in TASKS if name != "echo")
    return f"No engine here serves models of the kind '{kind}', such as '{model}'; there are: {able}."


def _encodes(model_type: Any, names: list[str]) -> bool:
    return model_type in ENCODER_TYPES or any(ENCODERS.search(name) for name in names)


def _only_sees(config: dict[str, Any]) -> bool:
    """Whether it takes pictures, and mlx-lm does not know it as a language model that could do without."""
    if not any(config.get(name) for name in SIGHT):
        return False
    model_type = str(config.get("model_type"))
    return SAME.get(model_type, model_type) not in _of_mlx_lm()


@cache
def _of_mlx_lm() -> frozenset[str]:
    """Its architectures, from the names of its files: nothing of it is imported."""
    found = importlib.util.find_spec("mlx_lm")
    folders = found.submodule_search_locations if found else None
    return frozenset(file.stem for folder in folders or () for file in Path(folder, "models").glob("*.py"))


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
