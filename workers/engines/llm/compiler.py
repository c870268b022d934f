"""Compiling grammars for a model's tokens with llguidance."""

import json
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import llguidance.hf
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import BadRequest
from workers.engines.llm.bounds import TooMuch, lark_share, regex_share, schema_share
from workers.engines.llm.constraint import Mask, Tokens

Json = dict[str, Any]

# Compact, with at most one space behind a comma or a colon: no model can go on with whitespace for ever.
JSON = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
ANY_OBJECT: Json = {"type": "object"}
LIMITS = LLParserLimits(initial_lexer_fuel=500_000, max_lexer_states=100_000, verbose_errors=False)
TOTAL_BYTES = 512 * 1024  # of all the grammars of a request
REASON = 200  # characters of what llguidance says
SHARES: dict[str, Callable[[Any], float]] = {
    "json": schema_share,
    "regex": regex_share,
    "lark": lark_share,
    "own": lambda _: 0.0,
}
SPACES = ("\n", "\n\n", " ")


class Part(NamedTuple):
    """A grammar: a JSON Schema, or the text of a regular expression or of a Lark grammar (llguidance's);
    "own" is a Lark grammar that no client wrote.

    `param` is the field that it comes from. A `loose` one that cannot be compiled is any JSON object.
    """

    kind: Literal["json", "regex", "lark", "own"]
    source: Any
    param: str
    loose: bool = False

    @property
    def grammar(self) -> Json:
        if self.kind == "json":
            return {"json_schema": self.source | {"x-guidance": JSON}}
        if self.kind == "regex":
            [grammar] = json.loads(LLMatcher.grammar_from_regex(self.source))["grammars"]
            return {"lark_grammar": grammar["lark_grammar"]}
        return {"lark_grammar": self.source}

    @property
    def share(self) -> float:
        """How much of what a request may cost. Raises ValueError."""
        return SHARES[self.kind](self.source)


class Compiler:
    """A model's. Any thread. Making one takes about a second.

    `vocabulary` is the number of logits, which may be more or less than the tokenizer's tokens. Raises
    ValueError, or what llguidance panics with, for a tokenizer that it cannot read.
    """

    def __init__(self, tokenizer: TokenizerWrapper, vocabulary: int) -> None:
        vocab = tokenizer.get_vocab()
        ends = sorted(end for end in tokenizer.eos_token_ids if end < min(len(vocab), vocabulary))
        self._tokens = llguidance.hf.from_tokenizer(
            tokenizer._tokenizer, n_vocab=max(len(vocab), vocabulary), eos_token=ends
        )
        words = -(-self._tokens.vocab_size // 32)
        known = (token for token in vocab.values() if token < vocabulary)
        unending = (token for token in range(vocabulary) if token not in ends)
        self.tokens = Tokens(
            words=words,
            known=_mask(known, words),
            unending=_mask(unending, words),
            think_end=tuple(tokenizer.think_end_tokens or ()),
            spaces=_spaces(self._tokens),
        )

    def compile(self, whole: Part, parts: dict[str, Part] | None = None) -> LLMatcher:
        """A matcher at the beginning of `whole`, which may name the parts as @name.

        Raises BadRequest, which names the field of the part that is to blame.
        """
        parts = parts or {}
        try:
            return self._matcher(whole, parts)
        except ValueError as error:
            blame = self._blame(parts)
            loosened = {name: _loosened(part) if name in blame else part for name, part in parts.items()}
            if loosened == parts:
                [(param, reason), *_] = [*blame.values(), (whole.param, error)]
                raise _refusal(param, reason) from error
        return self.compile(whole, loosened)

    def _matcher(self, whole: Part, parts: dict[str, Part]) -> LLMatcher:
        """Raises ValueError."""
        if sum(part.share for part in (whole, *parts.values())) > 1:
            raise TooMuch("it is too much together")
        named = [part.grammar | {"name": name} for name, part in parts.items()]
        text = json.dumps({"grammars": [whole.grammar, *named]})
        if len(text) > TOTAL_BYTES:
            raise TooMuch(f"it has more than {TOTAL_BYTES // 1024} KB")
        matcher = LLMatcher(self._tokens, text, log_level=0, limits=LIMITS)
        _check(matcher)
        _try(matcher.deep_copy())
        return matcher

    def _blame(self, parts: dict[str, Part]) -> dict[str, tuple[str, ValueError]]:
        """The parts that cannot be compiled alone."""
        blame = {}
        for name, part in parts.items():
            try:
                self._matcher(part, {})
            except ValueError as error:
                blame[name] = (part.param, error)
        return blame


def _check(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    if warnings := matcher.get_grammar_warnings():
        raise ValueError(warnings[0])


def _try(matcher: LLMatcher) -> None:
    """Take a first token: some grammars turn out to be too much only now. What is learned of the grammar's
    words stays with all copies."""
    mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    _check(matcher)
    matcher.consume_token(int(np.unpackbits(mask, bitorder="little").argmax()))
    matcher.compute_bitmask()
    _check(matcher)


def _loosened(part: Part) -> Part:
    return part._replace(kind="json", source=ANY_OBJECT) if part.loose else part


def _refusal(param: str, error: ValueError) -> BadRequest:
    return BadRequest(f"'{param}' cannot be enforced: {_reason(str(error))}.", param=param)


def _reason(message: str) -> str:
    """llguidance's first line, and that of the regular expression's parser; without its hints."""
    if message.startswith("panic"):
        return "it is too large"
    if "NoExtension" in message:
        return "nothing satisfies it"
    lines = message.splitlines()
    said = [lines[0].partition(". Enable ")[0].strip(" :.")] if lines else []
    said += [line for line in lines[1:] if line.startswith("error: ")]
    return "; ".join(said)[:REASON]


def _mask(tokens: Iterable[int], words: int) -> Mask:
    bits = np.zeros(words * 32, dtype=np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def _spaces(tokens: LLTokenizer) -> frozenset[int]:
    """The tokens of whitespace that models write behind their reasoning."""
    written = (tokens.tokenize_str(space) for space in SPACES)
    return frozenset(each[0] for each in written if len(each) == 1)
