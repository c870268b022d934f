"""Texts as the echo engine reads and says them: one word is one token."""

import re
from itertools import cycle, islice

WORD = re.compile(r"\s*\S+")
PIECE = re.compile(r"\s*\S+|\s+")  # the same, with the white space at the end


def repeat(words: list[str], length: int | None) -> list[str]:
    """`words` again and again up to `length` words, a space between two rounds."""
    if length is None or not words:
        return words
    first = words[0].lstrip()
    return [first, *islice(cycle([*words[1:], f" {first}"]), length - 1)] if length else []
