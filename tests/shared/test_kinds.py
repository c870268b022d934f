"""A folder's own config.json says which engine serves it."""

import json
from pathlib import Path

import pytest

from shared.kinds import kind_of


def folder(tmp_path: Path, config: object, *others: str) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in others:
        (tmp_path / name).write_text("[]")
    return tmp_path


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "llm"),
        ({"model_type": "qwen3_moe"}, "llm"),
        ({"model_type": "gemma3", "vision_config": {}, "text_config": {}}, "llm"),
        ({"model_type": "qwen3_vl", "vision_config": {"depth": 27}}, "llm"),
        ({"model_type": "qwen2_5_vl", "vision_config": {"depth": 27}}, "llm"),
        ({"model_type": "idefics3", "vision_config": {"size": 1}}, "vlm"),
        ({"model_type": "paligemma", "vision_config": {"size": 1}}, "vlm"),
        ({"model_type": "qwen3_asr"}, "asr"),
        ({"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]}, "asr"),
        ({"n_mels": 80, "n_audio_state": 384}, "asr"),
        ({"target": "nemo.collections.asr.models.EncDecRNNTBPEModel"}, "asr"),
        ({"model_type": "voxtral"}, "asr"),
        ({"model_type": "kokoro"}, "tts"),
        ({"model_type": "qwen3_tts"}, "tts"),
        ({"model_type": "voxtral_tts"}, "tts"),
        ({"model_type": "spark"}, "tts"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "embedding"),
        ({"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"]}, "embedding"),
        ({"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]}, "embedding"),
        ({"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"]}, "embedding"),
        ({}, "llm"),
        ([], "llm"),
        ({"model_type": 7, "architectures": [None]}, "llm"),
    ],
)
def test_the_kind_follows_from_the_config(tmp_path, config, kind):
    assert kind_of(folder(tmp_path, config)) == kind


def test_the_steps_of_sentence_transformers_make_an_embedding_model(tmp_path):
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    assert kind_of(folder(tmp_path, config)) == "llm"
    assert kind_of(folder(tmp_path, config, "modules.json")) == "embedding"


def test_a_folder_without_a_config_is_taken_for_a_language_model(tmp_path):
    assert kind_of(tmp_path) == "llm"
