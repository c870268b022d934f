"""What tokens stand for: the bytes of each, and the text of many."""

import codecs
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol

from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    SPMStreamingDetokenizer,
    StreamingDetokenizer,
    TokenizerWrapper,
)

from workers.engines.llm.said import Scored

SPACE = "\u2581"  # how SentencePiece writes a space
BEFORE = 4  # tokens of a prompt that may end in a part of what its answer begins with
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how it writes one that has no token
LEAST = -9999.0  # what OpenAI says of a token that cannot be


def _alphabet() -> dict[str, int]:
    """Character -> byte of byte-level vocabularies: what can be printed stands for itself, the rest is
    counted from 256. Source: bytes_to_unicode in https://github.com/openai/gpt-2/blob/master/src/encoder.py"""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)}
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + at): byte for at, byte in enumerate(others)}


ALPHABET = _alphabet()


class Reader(Protocol):
    """The text of one stream of tokens, said once no later token can change it."""

    def add(self, token: int) -> None: ...

    def read(self) -> str:
        """What is certain, and was not read before."""

    def end(self) -> str:
        """What was held back, when no more can come."""


class Pieces:
    """A tokenizer's vocabulary. Any thread."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        detokenizer = tokenizer.detokenizer
        self._byte_level = isinstance(detokenizer, BPEStreamingDetokenizer)
        self._sentencepiece = isinstance(detokenizer, SPMStreamingDetokenizer)
        self._trims = self._sentencepiece and detokenizer.trim_space
        self._added = {token: each.content for token, each in tokenizer.added_tokens_decoder.items()}
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, Any]] = {}

    def of(self, token: int) -> bytes:
        """The bytes of one token, which may be a part of a character. None of a token that is not known."""
        if (known := self._bytes.get(token)) is None:
            known = self._bytes[token] = self._spell(token)
        return known

    def scored(self, token: int, scored: Scored, piece: bytes | None = None) -> dict[str, Any]:
        """A token in a job's log-probabilities; `piece` are its bytes where they are not its own."""
        name = self._name(token) if piece is None else self._name(token) | {"bytes": list(piece)}
        top = [self._name(other) | {"logprob": max(logprob, LEAST)} for other, logprob in scored.top]
        logprob = None if scored.logprob is None else max(scored.logprob, LEAST)
        return name | {"logprob": logprob, "top": top}

    def within(self, text: str, tokens: Iterable[int]) -> list[bytes]:
        """The bytes that each of a text's tokens has in it: none for tokens that the tokenizer has put
        around it, and without the space that some put before it."""
        whole, at, pieces = text.encode("utf-8", "replace"), 0, []
        for token in tokens:
            piece = self.of(token)
            if not whole.startswith(piece, at):
                piece = b"" if token in self._added else piece.removeprefix(b" " if at == 0 else b"")
            pieces.append(piece)
            at += len(piece)
        return pieces

    def text(self, tokens: Iterable[int]) -> str:
        """But for a part of a character at the end."""
        reader = self.reader([])
        for token in tokens:
            reader.add(token)
        return reader.read()

    def reader(self, prompt: list[int] | None = None) -> Reader:
        """For the answer to a chat, or for what goes on where `prompt` ends."""
        if self._byte_level or self._sentencepiece:
            reader: Reader = BytesReader(self, trim=self._trims and prompt is None)
        else:
            reader = DetokenizerReader(self._tokenizer.detokenizer, len(self._tokenizer))
        for token in (prompt or [])[-BEFORE:]:
            reader.add(token)
        reader.read()
        return reader

    def _name(self, token: int) -> dict[str, Any]:
        if (known := self._names.get(token)) is None:
            piece = self.of(token)
            known = {"token": piece.decode("utf-8", "replace"), "bytes": list(piece)}
            self._names[token] = known
        return known

    def _spell(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        try:
            piece = self._tokenizer.convert_ids_to_tokens(token)
        except (LookupError, TypeError, ValueError, OverflowError):
            return b""
        if not isinstance(piece, str):
            return piece or b""
        if self._byte_level:
            return _from_alphabet(piece)
        if byte := BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        if self._sentencepiece or SPACE in piece:
            return piece.replace(SPACE, " ").encode()
        text = self._tokenizer.decode([token])
        return _from_alphabet(piece) if "\ufffd" in text else text.encode()


def _from_alphabet(piece: str) -> bytes:
    """A piece that writes each byte as a character of its own; any other stands for itself."""
    try:
        return bytes([ALPHABET[character] for character in piece])
    except KeyError:
        return piece.encode()


class BytesReader:
    """For vocabularies whose tokens are bytes, whatever stands beside them."""

    def __init__(self, pieces: Pieces, trim: bool) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unread: list[bytes] = []
        self._trim = trim

    def add(self, token: int) -> None:
        self._unread.append(self._pieces.of(token))

    def read(self) -> str:
        return self._decode(final=False)

    def end(self) -> str:
        return self._decode(final=True)

    def _decode(self, final: bool) -> str:
        text = self._decoder.decode(b"".join(self._unread), final)
        self._unread.clear()
        if self._trim and text:
            self._trim = False
            return text.removeprefix(" ")
        return text


class DetokenizerReader:
    """For other vocabularies: mlx-lm's own way, which decodes line by line."""

    def __init__(self, detokenizer: StreamingDetokenizer, size: int) -> None:
        self._detokenizer = detokenizer
        self._size = size

    def add(self, token: int) -> None:
        if token < self._size:  # some tokenizers raise for the rows that pad a model's vocabulary
            self._detokenizer.add_token(token)

    def read(self) -> str:
        return self._detokenizer.last_segment

    def end(self) -> str:
        self._detokenizer.finalize()
        return self._detokenizer.last_segment


@lru_cache(maxsize=4)
def pieces_of(tokenizer: TokenizerWrapper) -> Pieces:
    return Pieces(tokenizer)
