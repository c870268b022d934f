"""What the shared batch of a speech model brings on this device: chunks side by side, and one by one.

    python -m benchmarks.rows whisper-large-v3-turbo
    python -m benchmarks.rows qwen3-asr-0.6b --rows 1 --rows 16

Models of the real shapes with random weights, since speed does not depend on values: 16-bit on a GPU,
float32 on a CPU. Random weights do not end a sentence, so every chunk of noise is `--tokens` long, heard in
one window and at one temperature. "One by one" is mlx-audio's own decoding of the same chunks.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.recordings import RATE
from workers import memory

if TYPE_CHECKING:  # whatever imports MLX waits until a BLAS is loaded
    from workers.engines.asr.recognizer import Recognizer

WHISPER = {  # layers of the encoder and the decoder, width, heads, bands
    "whisper-large-v3-turbo": (32, 4, 1280, 20, 128),
    "whisper-tiny": (4, 4, 384, 6, 80),
}
QWEN3 = {  # audio: layers, width, heads; text: width, feed-forward
    "qwen3-asr-0.6b": (18, 896, 14, 1024, 3072),
    "qwen3-asr-1.7b": (24, 1024, 16, 2048, 6144),
}


class Special:
    """Whisper large-v3's special tokens, in place of a tokenizer."""

    eot, sot, language_token, translate, transcribe = 50257, 50258, 50259, 50359, 50360
    sot_lm, sot_prev, no_speech, no_timestamps, timestamp_begin = 50361, 50362, 50363, 50364, 50365
    sot_sequence, language = (sot, language_token, transcribe), "en"
    non_speech_tokens = (1, 2, 7)

    def encode(self, text: str) -> list[int]:
        return [220]

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


class Words:
    """Qwen3-ASR's special tokens, in place of a tokenizer and a feature extractor."""

    added_tokens_decoder: dict[int, Any] = {}

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<asr_text>": 151704}.get(token, 151645)

    def convert_ids_to_tokens(self, token: int) -> str:
        return "a"

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def encode(self, prompt: str, **options: Any) -> np.ndarray:
        return np.array([[151644, *[151676] * prompt.count("<|audio_pad|>"), 151670, 151704]])

    def decode(self, tokens: list[int], **options: Any) -> str:
        return " ".join(map(str, tokens))

    def __call__(self, samples: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        from mlx_audio.stt.models.whisper.audio import log_mel_spectrogram

        mel = np.array(log_mel_spectrogram(samples, n_mels=128)).T[None]
        return {"input_features": mel, "attention_mask": np.ones((1, mel.shape[-1]), np.int32)}


Made = tuple[Callable[[int], "Recognizer"], Callable[[np.ndarray], Any]]


def whisper(name: str, tokens: int) -> Made:
    import mlx.core as mx
    from mlx_audio.stt.models.whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim
    from mlx_audio.stt.models.whisper.decoding import DecodingOptions, decode
    from mlx_audio.stt.models.whisper.whisper import Model, ModelDimensions

    from workers.engines.asr.precision import to_float32
    from workers.engines.asr.whisper import WhisperRecognizer, recognizer

    encoder, decoder, width, heads, bands = WHISPER[name]
    sizes = (bands, 1500, width, heads, encoder, 51866, 448, width, heads, decoder)
    model = Model(ModelDimensions(*sizes), mx.float16)
    model.set_dtype(mx.float16)
    model = model if memory.compact() else to_float32(model)
    mx.eval(model.parameters())
    model.get_tokenizer = lambda language=None, task="transcribe": Special()
    recognizer.ladder = lambda temperature: (0.0,)
    recognizer.cut = lambda said, size, begin, stride: ([], size)
    options = DecodingOptions(language="en", sample_len=tokens, fp16=memory.compact())

    def one(samples: np.ndarray) -> Any:
        mel = log_mel_spectrogram(mx.array(samples), n_mels=bands, padding=N_SAMPLES)
        return decode(model, pad_or_trim(mel, N_FRAMES, axis=-2).astype(model.dtype), options)

    def side_by_side(rows: int) -> "Recognizer":
        found = WhisperRecognizer(model, rows)
        found._decoder.limit = tokens
        return found

    return side_by_side, one


def qwen3(name: str, tokens: int) -> Made:
    import mlx.core as mx
    from mlx_audio.stt.models.qwen3_asr.config import ModelConfig
    from mlx_audio.stt.models.qwen3_asr.qwen3_asr import Qwen3ASRModel

    from workers.engines.asr import qwen3

    layers, width, heads, text, feed_forward = QWEN3[name]
    audio = {"encoder_layers": layers, "d_model": width, "encoder_attention_heads": heads}
    audio |= {"encoder_ffn_dim": 4 * width, "output_dim": text}
    sizes = {"hidden_size": text, "intermediate_size": feed_forward}
    model = Qwen3ASRModel(ModelConfig.from_dict({"audio_config": audio, "text_config": sizes}))
    model.set_dtype(mx.bfloat16 if memory.compact() else mx.float32)
    mx.eval(model.parameters())
    model._tokenizer = model._feature_extractor = Words()
    model._eos_token_ids = set
    qwen3.ladder = lambda temperature: (0.0,)
    qwen3.loop_begin = lambda said: None
    qwen3.too_repetitive = lambda said: False
    return (
        lambda rows: qwen3.Qwen3Recognizer(model, {}, rows, max_tokens=tokens),
        lambda samples: model.generate(samples, max_tokens=tokens, language="English"),
    )


def seconds(recognizer: "Recognizer", chunks: list[np.ndarray]) -> float:
    from workers.engines.asr.recognizer import Asked

    began, waiting, running = time.perf_counter(), list(enumerate(chunks)), 0
    while waiting or running:
        while waiting and running < recognizer.rows:
            recognizer.add(*waiting.pop(), Asked(language="en"))
            running += 1
        for _, heard in recognizer.step():
            running -= 1
            if isinstance(heard, Exception):
                raise heard
    return time.perf_counter() - began


def main(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join([*WHISPER, *QWEN3])}.")],
    rows: Annotated[list[int] | None, typer.Option(help="Chunks side by side; may be repeated.")] = None,
    chunks: Annotated[int, typer.Option(help="Chunks of 28 s.")] = 32,
    tokens: Annotated[int, typer.Option(help="Tokens of each.")] = 100,
) -> None:
    """Time the same chunks side by side and one by one, twice each, after a round of warming up."""
    memory.preload_blas()
    if model not in WHISPER | QWEN3:
        raise typer.BadParameter(f"{model}: it may be {', '.join([*WHISPER, *QWEN3])}")
    side_by_side, one = (whisper if model in WHISPER else qwen3)(model, tokens)
    noise = np.random.default_rng(0)
    audio = [(0.1 * noise.standard_normal(28 * RATE)).astype(np.float32) for _ in range(chunks)]
    table = Table(f"{model}, {chunks} x 28 s", "seconds", "audio-seconds a second")

    def row(name: str, took: list[float]) -> None:
        table.add_row(name, ", ".join(f"{each:.2f}" for each in took), f"{28 * chunks / min(took):.0f}")

    few = audio[: max(2, chunks // 4)]
    one(audio[0])
    took = []
    for _ in range(2):
        began = time.perf_counter()
        for samples in few:
            one(samples)
        took.append((time.perf_counter() - began) * chunks / len(few))
    row("one by one", took)
    for count in rows or [1, 4, 8, 16, 32]:
        recognizer = side_by_side(count)
        seconds(recognizer, audio)
        row(f"rows = {count}", [seconds(recognizer, audio) for _ in range(2)])
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
