"""The tokens of a byte-level BPE tokenizer as OpenAI's `logprobs` spell them: text and UTF-8 bytes.

The alphabet is `bytes_to_unicode` in https://github.com/openai/gpt-2/blob/master/src/encoder.py
"""

from collections.abc import Iterable
from typing import Any

from shared.transcript import TokenLogprob

_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + at): byte for at, byte in enumerate(_OTHERS)}


class Spelling:
    """`tokenizer` is one of transformers'."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = set(tokenizer.get_added_vocab().values())

    def bytes_of(self, token: int) -> bytes:
        text = self._tokenizer.convert_ids_to_tokens(token)
        if token in self._added:
            return text.encode()
        return bytes(BYTES[character] for character in text)

    def logprobs(self, tokens: Iterable[tuple[int, float]]) -> list[TokenLogprob]:
        """A token that ends within a character shows the replacement character; its bytes are right."""
        spelled = ((self.bytes_of(token), logprob) for token, logprob in tokens)
        return [TokenLogprob.of(raw.decode(errors="replace"), raw, logprob) for raw, logprob in spelled]
