"""When each word was said, by Qwen3-ForcedAligner: https://huggingface.co/Qwen/Qwen3-ForcedAligner-0.6B

The aligner is told the words without punctuation; `place` finds them again in the text.
"""

import unicodedata
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from shared.transcript import Word
from workers.engines.asr.audio import RATE
from workers.engines.asr.qwen3_prompt import embed, encode

TIMES = "<timestamp><timestamp>"
PAD = "<|audio_pad|>"
SENTENCE_ENDS = ".!?…。！？｡؟۔।॥"
CLOSING = "\"'”’»)]）」』】》"

Piece = tuple[str, Word]  # a word with the punctuation and the space around it, and its times


class Aligner:
    """A loaded mlx-audio `qwen3_forced_aligner`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.languages = [name.lower() for name in model.config.support_languages or ()]

    def words(self, samples: np.ndarray, text: str, language: str) -> list[Piece]:
        """Every word of `text`, which is said in `samples` [n] in a `language` (its English name).

        Each comes as it stands in the text, with the punctuation and the space around it, and as a Word
        with its times in seconds, which never go back and stay inside the audio. The first elements join
        to the text. Nothing where there is no word.
        """
        words = self._split(text, language)
        if not words:
            return []
        times = np.clip(self._times(samples, words), 0.0, len(samples) / RATE)
        times = np.maximum.accumulate(times.ravel()).round(3).reshape(-1, 2).tolist()
        pieces = place(text, words)
        return [
            (piece, Word(piece.strip(), start, end))
            for piece, (start, end) in zip(pieces, times, strict=True)
        ]

    def _split(self, text: str, language: str) -> list[str]:
        processor = self._model.aligner_processor
        try:
            return processor.encode_timestamp(text, language)[0]
        except ImportError:  # nagisa or soynlp, large packages for Japanese and Korean
            if language.lower() == "japanese":
                return [character for character in text if _kept(character)]
            return processor.tokenize_space_lang(text)

    def _times(self, samples: np.ndarray, words: list[str]) -> np.ndarray:
        """The beginning and end [n, 2] of each word in seconds."""
        model, config = self._model, self._model.config
        features = encode(model, samples)
        prompt = f"<|audio_start|>{PAD * features.shape[0]}<|audio_end|>{TIMES.join(words)}{TIMES}"
        ids = np.array(model._tokenizer.encode(prompt, add_special_tokens=False))
        asked = np.flatnonzero(ids == config.timestamp_token_id)
        hidden = model.model(inputs_embeds=embed(model, ids, features))[0, mx.array(asked)]
        classes = np.array(mx.argmax(model.lm_head(hidden), axis=-1))
        fixed = model.aligner_processor.parse_timestamp(words, classes * config.timestamp_segment_time)
        return np.array([[item["start_time"], item["end_time"]] for item in fixed]) / 1000


def place(text: str, words: list[str]) -> list[str]:
    """`text` cut into one piece a word: the letters of `words`, in order, are its letters and digits.

    What stands between two words belongs to the first up to the white space or the opening bracket.
    """
    cuts, at = [0], 0
    for word in words[:-1]:
        for _ in word:
            at = _next_kept(text, at) + 1
        cuts.append(_end(text, at))
    edges = [*cuts, len(text)]
    return [text[begin:end] for begin, end in zip(edges[:-1], edges[1:], strict=True)]


def sentences(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """The words, sentence by sentence."""
    sentence: list[Piece] = []
    for piece in pieces:
        sentence.append(piece)
        if piece[1].word.rstrip(CLOSING).endswith(tuple(SENTENCE_ENDS)):
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _next_kept(text: str, at: int) -> int:
    while at < len(text) and not _kept(text[at]):
        at += 1
    return min(at, len(text) - 1)


def _end(text: str, at: int) -> int:
    while at < len(text) and not (
        _kept(text[at]) or text[at].isspace() or unicodedata.category(text[at]) in ("Ps", "Pi")
    ):
        at += 1
    return at


def _kept(character: str) -> bool:
    """Whether the aligner is told of it: mlx-audio's ForceAlignProcessor.is_kept_char."""
    return character == "'" or unicodedata.category(character)[0] in "LN"
