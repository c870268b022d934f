"""Log-probabilities in the columns of OpenAI's completions."""

import codecs
from typing import Any

Json = dict[str, Any]


class Table:
    """The log-probabilities of one choice; `rows` may be called for one part of them after the other."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0  # characters of the text before the next token

    def rows(self, scored: list[Json]) -> Json:
        """`openai.types.completion_choice.Logprobs` of the tokens. A first token of a prompt has no
        log-probability."""
        return {
            "text_offset": [self._advance(token) for token in scored],
            "token_logprobs": [token["logprob"] for token in scored],
            "tokens": [_name(token) for token in scored],
            "top_logprobs": [_top(token) for token in scored],
        }

    def _advance(self, token: Json) -> int:
        before = self._offset
        self._offset += len(self._decoder.decode(bytes(token["bytes"])))
        return before


def _name(token: Json) -> str:
    """The token's text; as OpenAI writes them, `bytes:\\xe2\\x80` for those that are no whole text."""
    raw = bytes(token["bytes"])
    try:
        return raw.decode() or token["token"]
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _top(token: Json) -> dict[str, float] | None:
    """The likeliest tokens and the chosen one; of two with the same text, the likelier."""
    if token["logprob"] is None:
        return None
    likeliest: dict[str, float] = {}
    for each in (*token["top"], token):
        likeliest.setdefault(_name(each), each["logprob"])
    return likeliest
