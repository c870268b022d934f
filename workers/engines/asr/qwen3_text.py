"""From the tokens of Qwen3-ASR to what was heard.

Left to itself, the model begins with "language English<asr_text>".
"""

from dataclasses import dataclass
from typing import Any

from mlx_audio.stt.models.whisper.decoding import compression_ratio

from shared.errors import BadRequest
from shared.transcript import Segment, Word
from workers.engines.asr.align import Piece, sentences
from workers.engines.asr.audio import RATE
from workers.engines.asr.batch import Row
from workers.engines.asr.languages import code_of, name_of
from workers.engines.asr.recognizer import Hearing
from workers.engines.asr.spelling import Spelling

LANGUAGE = "language "
NAMES = {"Tagalog": "Filipino"}  # what Qwen calls a language that Whisper calls otherwise
CODES = {"Filipino": "tl"}


@dataclass(frozen=True)
class Said:
    """`language` is an English name, None if the model named none; `tokens` are those of the text, each
    with its log-probability; `text` is without white space around it."""

    language: str | None
    tokens: list[tuple[int, float]]
    text: str


class Reader:
    """`tokenizer` is the model's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._spelling = Spelling(tokenizer)
        added = tokenizer.added_tokens_decoder
        self._controls = {at for at, token in added.items() if token.special}  # tokens that are no text
        self._mark = tokenizer.convert_tokens_to_ids("<asr_text>")

    def read(self, row: Row) -> Said:
        tokens = list(zip(row.tokens, row.logprobs, strict=False))
        language = name_of_language(row.asked.language) if row.asked.language else None
        if language is None and self._mark in row.tokens:
            mark = row.tokens.index(self._mark)
            head = self._decode(row.tokens[:mark])
            if head.startswith(LANGUAGE):
                language, tokens = head.removeprefix(LANGUAGE).strip(), tokens[mark + 1 :]
        tokens = [(token, logprob) for token, logprob in tokens if token not in self._controls]
        return Said(language, tokens, self._decode([token for token, _ in tokens]).strip())

    def hearing(self, row: Row, said: Said, pieces: list[Piece]) -> Hearing:
        """`pieces` are the words of the text with their times; none makes one segment of the whole."""
        end = len(row.samples) / RATE
        whole = self._segment(row, said, Word(said.text, 0.0, end))
        segments = [self._sentence(row, said, sentence) for sentence in sentences(pieces)]
        return Hearing(
            said.text,
            row.asked.language or code_of_language(said.language),
            segments or ([whole] if said.text else []),
            self._spelling.logprobs(said.tokens) if row.asked.logprobs else None,
        )

    def _sentence(self, row: Row, said: Said, sentence: list[Piece]) -> Segment:
        text = "".join(piece for piece, _ in sentence)
        words = [word for _, word in sentence]
        return self._segment(row, said, Word(text, words[0].start, words[-1].end), words)

    def _segment(self, row: Row, said: Said, span: Word, words: list[Word] | None = None) -> Segment:
        """Of a sentence; what is measured is measured of the whole chunk."""
        sums = [logprob for _, logprob in said.tokens]
        return Segment(
            span.start,
            span.end,
            span.word,
            tokens=[] if words else [token for token, _ in said.tokens],
            temperature=row.temperature,
            avg_logprob=sum(sums) / len(sums) if sums else None,
            compression_ratio=compression_ratio(said.text) if said.text else None,
            words=words if row.asked.words else None,
        )

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


def name_of_language(code: str) -> str:
    """Qwen's name of a language: "Filipino" for "tl"."""
    name = name_of(code)
    return NAMES.get(name, name)


def code_of_language(name: str | None) -> str | None:
    """The ISO 639 code of Qwen's name; None for "None" (nobody speaks) and what is not known."""
    try:
        return CODES.get(name) or code_of(name)
    except BadRequest:
        return None
