"""Random walks along a grammar: a model that says anything it may, and nothing else."""

from collections.abc import Iterable, Sequence

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shared.tasks import chat
from workers.engines.llm.constraint import Constraint, Masks
from workers.engines.llm.grammar import Grammars

VOCABULARY = 49152  # of smollm2
CLOSERS = ('"', "}", "]", '"}')  # now and then preferred, so that a walk comes to an end
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
WORDS = ("get", "_weather", "name", "arguments", "city", "Paris", "null", "true", '": ', '{"', '"}', "\n\n")


def allowed(mask: np.ndarray, row: int = 0) -> np.ndarray:
    """The tokens that a row of a mask allows."""
    return np.flatnonzero(np.unpackbits(mask[row].view(np.uint8), bitorder="little"))


class Walker:
    """Walks by what `seed` says, whatever else is in the batch."""

    def __init__(self, tokenizer: TokenizerWrapper, constraint: Constraint, seed: int) -> None:
        self.tokenizer, self.constraint = tokenizer, constraint
        self.tokens: list[int] = []
        self.over = False
        self._random = np.random.default_rng(seed)
        self._ends = list(tokenizer.eos_token_ids)
        encoded = (tokenizer.encode(text, add_special_tokens=False) for text in CLOSERS)
        self._closers = [*self._ends, *(each[0] for each in encoded if len(each) == 1)]

    def step(self, may: np.ndarray) -> None:
        closing = np.intersect1d(may, self._closers)
        prefer = len(closing) and self._random.random() < 0.3
        self.take(int(self._random.choice(closing if prefer else may)))

    def take(self, token: int) -> None:
        self.constraint.accept(token)
        if self.constraint.error:
            raise self.constraint.error
        if token in self._ends:
            self.over = True
        else:
            self.tokens.append(token)
            self.over = self.constraint.ended

    @property
    def text(self) -> str:
        return self.tokenizer.decode(self.tokens)


def walk(walkers: Sequence[Walker], vocabulary: int, steps: int = 2000) -> None:
    """All in one batch, until every one is over."""
    masks = Masks(vocabulary)
    for _ in range(steps):
        mask = masks.fill([None if each.over else each.constraint for each in walkers])
        if mask is None:
            return
        for row, each in enumerate(walkers):
            if not each.over:
                each.step(allowed(mask, row))
    raise AssertionError("a walk that does not end")


def texts(
    grammars: Grammars, tokenizer: TokenizerWrapper, request: chat.Request, count: int = 4
) -> list[str]:
    """What `count` walks say."""
    first = grammars.constraint(request, reasoning=False)
    assert first
    walkers = [Walker(tokenizer, first.fork(), seed) for seed in range(count)]
    walk(walkers, VOCABULARY)
    return [each.text for each in walkers]


def small_tokenizer(markers: Iterable[str] = MARKERS, template: str = "") -> TokenizerWrapper:
    """Bytes, some words and markers; its calls are Hermes's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [_spelled(word) for word in WORDS]
    merges, vocabulary = [], list(letters)
    for piece in pieces:
        for at in range(2, len(piece) + 1):
            if piece[:at] not in vocabulary:
                merges.append((piece[: at - 1], piece[at - 1]))
                vocabulary.append(piece[:at])
    inner = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(vocabulary)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(
        [AddedToken("<|im_end|>", special=True), AddedToken("<|endoftext|>", special=True)]
    )
    inner.add_tokens([AddedToken(marker, special=False) for marker in markers])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", chat_template=template
    )
    return TokenizerWrapper(
        tokenizer,
        eos_token_ids=[inner.token_to_id("<|im_end|>"), inner.token_to_id("<|endoftext|>")],
        tool_parser=json_tools.parse_tool_call,
        tool_call_start="<tool_call>",
        tool_call_end="</tool_call>",
    )


def _spelled(text: str) -> str:
    """As byte-level vocabularies write it."""
    [(spelled, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return spelled
