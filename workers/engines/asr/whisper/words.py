"""The times of words, by mlx-audio's cross-attention alignment, on features that are there already."""

from typing import Any

import mlx.core as mx
from mlx_audio.stt.models.whisper.timing import add_word_timestamps

PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"


class Aligner:
    """What `add_word_timestamps` needs of a model, without encoding the audio a second time."""

    def __init__(self, model: Any, features: mx.array) -> None:
        self.alignment_heads = model.alignment_heads
        self._decoder = model.decoder
        self._features = features

    def forward_with_cross_qk(self, mel: mx.array, tokens: mx.array) -> tuple[mx.array, list]:
        logits, _, cross_qk = self._decoder(tokens, self._features[None])
        return logits, cross_qk


def align(
    model: Any, tokenizer: Any, features: mx.array, segments: list[dict], frames: int, last_speech: float
) -> None:
    """Give segments (mlx-audio's dicts of one window of `frames`) their "words", and the words' times
    to the segments. `last_speech` is where the segment before ends, in seconds."""
    add_word_timestamps(
        segments=segments,
        model=Aligner(model, features),
        tokenizer=tokenizer,
        mel=features,  # only handed through to the aligner
        num_frames=frames,
        prepend_punctuations=PREPENDED,
        append_punctuations=APPENDED,
        last_speech_timestamp=last_speech,
    )
