"""The starter models after conversion: they load with the ordinary libraries and mean what they say."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import jiwer
import pytest

from workers import memory

pytestmark = pytest.mark.models

DATA = Path(__file__).parent.parent / "data"
TRANSCRIPTS = json.loads((DATA / "transcripts.json").read_text())


@pytest.fixture(scope="module")
def llm(smollm2: Path) -> tuple[Any, Any]:
    memory.preload_blas()
    import mlx_lm

    return mlx_lm.load(str(smollm2))


@pytest.fixture(scope="module")
def asr(whisper: Path) -> Any:
    memory.preload_blas()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        from mlx_audio.stt.utils import load_model

        from workers.engines.asr.precision import to_float32

        model = load_model(whisper, strict=True)
    return model if memory.compact() else to_float32(model)


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("mr.", "mister")).split())


def transcribe(model: Any, name: str) -> str:
    return model.generate(str(DATA / name), fp16=memory.compact(), temperature=0.0).text


def test_smollm2_knows_the_capital_of_france_and_stops(llm):
    import mlx_lm

    model, tokenizer = llm
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    *_, last = mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=40)
    text = mlx_lm.generate(model, tokenizer, prompt, max_tokens=40)
    assert "Paris" in text
    assert (last.finish_reason, last.token) == ("stop", tokenizer.eos_token_id)


def test_smollm2_renders_its_chat_template(llm):
    _, tokenizer = llm
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_smollm2_splits_text_as_the_original_does(llm):
    _, tokenizer = llm
    assert tokenizer.eos_token_ids == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert [tokenizer.decode([t]) for t in tokenizer.encode("Call 2026 now")] == [
        *("Call", " ", "2", "0", "2", "6", " now")
    ]
    for text in ("naïve 東京 🙂", "  two  spaces\n\n\ttab", "<|im_start|>user\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_smollm2_is_stored_in_the_precision_of_this_machine(smollm2):
    config = json.loads((smollm2 / "config.json").read_text())
    assert config["torch_dtype"] == ("bfloat16" if memory.compact() else "float32")
    assert config["max_position_embeddings"] == 8192


def test_whisper_has_every_timestamp_token(asr):
    tokenizer = asr.get_tokenizer()
    ids = tokenizer.hf_tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|0.02|>", "<|30.00|>"])
    assert ids == [50363, 50364, asr.dims.n_vocab - 1]
    assert (tokenizer.eot, tokenizer.sot, tokenizer.no_timestamps) == (50256, 50257, 50362)


def test_whisper_computes_in_one_precision(asr):
    expected = {"float16"} if memory.compact() else {"float32"}
    arrays = [asr.encoder._positional_embedding, asr.decoder._mask, asr.decoder.positional_embedding]
    assert {str(a.dtype).removeprefix("mlx.core.") for a in arrays} == expected


def test_whisper_understands_what_is_read_to_it(asr):
    heard = {name: transcribe(asr, name) for name in TRANSCRIPTS}
    rate = jiwer.wer([words(t) for t in TRANSCRIPTS.values()], [words(t) for t in heard.values()])
    assert rate <= 0.15, heard


def test_whisper_says_when_each_word_was_spoken(asr):
    result = asr.generate(str(DATA / "austen-0870.flac"), fp16=memory.compact(), word_timestamps=True)
    spoken = [word for segment in result.segments for word in segment["words"]]
    assert spoken[0]["word"].strip() == "And"
    starts = [word["start"] for word in spoken]
    assert starts == sorted(starts) and spoken[-1]["end"] <= 7.5
