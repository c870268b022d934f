"""What a row may say next: a grammar of llguidance, and where in the answer it holds.

Nothing here raises inside a step: what goes wrong is kept in `error`, and its row is left as it is.
"""

import os
from collections.abc import Sequence

import mlx.core as mx
import msgspec
import numpy as np
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import fill_next_token_bitmask_par
from numpy.typing import NDArray

from shared.errors import BadRequest, EngineError

Mask = NDArray[np.int32]  # [rows, words]: the lowest bit of word 0 is token 0's

ALL = -1  # a word with every bit set
THREADS = 16
GAP = 2  # tokens of whitespace between the reasoning and the answer
NONE: frozenset[int] = frozenset()
BITS = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))


class Tokens(msgspec.Struct, frozen=True):
    """What every constraint of a model needs to know of its tokens.

    `words` are those of llguidance's masks: of the logits, or of the tokenizer if that has more tokens.
    `unending` [words] is every token that does not end an answer, `known` [words] every token that both the
    model and the tokenizer have.
    """

    words: int
    unending: Mask
    known: Mask
    think_end: tuple[int, ...]
    spaces: frozenset[int]


class Guide(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows of a request have in common.

    `opening` is the token after which a call must come wherever the text is free; if not `several`, the
    answer is over after one. `own_call` is a token that may come instead of the answer, and frees what
    follows. `param` is the field that a client would have to change.
    """

    tokens: Tokens
    param: str
    think_start: int | None = None  # if the answer may begin with a block of reasoning
    opening: int | None = None
    call: LLMatcher | None = None
    several: bool = True
    own_call: int | None = None

    @property
    def first(self) -> frozenset[int]:
        """What may come instead of the answer's first token."""
        return frozenset(token for token in (self.think_start, self.own_call) if token is not None)

    @property
    def behind_reasoning(self) -> frozenset[int]:
        return self.tokens.spaces | (NONE if self.own_call is None else {self.own_call})


class Constraint:
    """One row's. Without an `answer` the text is free but for calls; `reasoning`: it is until the end of the
    reasoning, in which the row begins."""

    def __init__(self, guide: Guide, answer: LLMatcher | None, reasoning: bool) -> None:
        self.guide = guide
        self.error: Exception | None = None
        self.beside = NONE  # tokens that may come though the matcher does not know them
        self.matcher: LLMatcher | None = None  # of the next token; None where the text is free
        self._answer = answer
        self._calling = False  # the matcher is that of a call in free text
        self._recent: tuple[int, ...] = ()
        self._gap = 0
        if answer and not reasoning:
            self.matcher, self.beside = answer, guide.first

    def fork(self) -> "Constraint":
        """An independent one in the same state. (Matchers share what they learn of the grammar's words.)"""
        other = Constraint.__new__(Constraint)
        other.__dict__.update(self.__dict__)
        other._answer = self._answer and self._answer.deep_copy()
        if self.matcher:
            other.matcher = self.matcher.deep_copy() if self._calling else other._answer
        return other

    @property
    def wants_mask(self) -> bool:
        """Whether the next token is restricted. In reasoning it is, as the answer must not end there."""
        return self.error is None and (self.matcher is not None or self._answer is not None)

    @property
    def ended(self) -> bool:
        """Whether nothing but an end token may follow."""
        return self.error is None and self.matcher is not None and self.matcher.is_stopped()

    def accept(self, token: int) -> None:
        """The row's next token."""
        if self.error is not None:
            return
        try:
            self._accept(token)
        except BaseException as error:  # misuse of the library, which itself does not raise; or a panic of it
            self.error = error

    def _accept(self, token: int) -> None:
        if self.matcher is None:
            self._listen(token)
        elif token in self.beside and not self.matcher.validate_tokens([token]):
            self._pass_by(token)
        else:
            self.beside = NONE
            self._advance(token)

    def _listen(self, token: int) -> None:
        """Free text, until a call is opened or the reasoning is over."""
        if token == self.guide.opening and self.guide.call:
            self.matcher, self._calling = self.guide.call.deep_copy(), True
        elif self._answer is not None and self._ends_reasoning(token):
            self.matcher, self.beside, self._gap = self._answer, self.guide.behind_reasoning, GAP

    def _ends_reasoning(self, token: int) -> bool:
        end = self.guide.tokens.think_end
        self._recent = (*self._recent, token)[-len(end) :]
        return self._recent == end

    def _pass_by(self, token: int) -> None:
        if token in self.guide.first:
            self.matcher, self.beside = None, NONE
            self._answer = None if token == self.guide.own_call else self._answer
        else:
            self._gap -= 1
            self.beside = self.beside if self._gap else NONE

    def _advance(self, token: int) -> None:
        if not self.matcher.consume_token(token):
            self.error = self._broken(self.matcher)
        elif self._calling and self.guide.several and self.matcher.is_stopped():
            self.matcher, self._calling = None, False

    def _broken(self, matcher: LLMatcher) -> Exception:
        if "doesn't satisfy the grammar" in matcher.get_error():
            return EngineError("A token was chosen that the grammar does not allow.")
        return self._too_complex()

    def _too_complex(self) -> BadRequest:
        return BadRequest("The grammar became too complex while it was followed.", param=self.guide.param)

    def finish(self, row: Mask) -> None:
        """Make [words] the mask of the next token, from what the matcher, if there is one, has put there."""
        if self.matcher is None:
            row[:] = self.guide.tokens.unending
            return
        for token in self.beside:
            row.view(np.uint32)[token // 32] |= BITS[token % 32]
        if self.error is None and (self.matcher.is_error() or not row.any()):
            self.error = self._too_complex()
        if self.error is not None:
            row[:] = ALL


class Masks:
    """Fills the masks of a batch, on all cores. `vocabulary` is the number of logits."""

    def __init__(self, vocabulary: int) -> None:
        self._words = -(-vocabulary // 32)
        self._executor: LLExecutor | None = None

    def fill(self, constraints: Sequence[Constraint | None]) -> Mask | None:
        """[rows, words of the vocabulary], all ones for rows without; None when no row wants one.

        Every one is an array of its own: the device may still read the last step's.
        """
        wanting = [(row, each) for row, each in enumerate(constraints) if each and each.wants_mask]
        if not wanting:
            return None
        words = wanting[0][1].guide.tokens.words
        mask = np.full((len(constraints), words), ALL, dtype=np.int32)
        self._compute(wanting, mask)
        mask[[row for row, _ in wanting]] &= wanting[0][1].guide.tokens.known
        for row, each in wanting:
            each.finish(mask[row])
        return np.ascontiguousarray(mask[:, : self._words])

    def _compute(self, wanting: list[tuple[int, Constraint]], mask: Mask) -> None:
        """What the matchers allow. One that the library refuses costs its own row."""
        if not (matchers := [(each.matcher, row) for row, each in wanting if each.matcher]):
            return
        if self._executor is None:
            self._executor = LLExecutor(min(THREADS, max(1, (os.cpu_count() or 1) * 4 // 5)))
        try:
            fill_next_token_bitmask_par(self._executor, matchers, mask)
        except BaseException as error:  # a panic is no Exception
            if len(wanting) == 1:
                wanting[0][1].error = error
                return
            for one in wanting:
                self._compute([one], mask)


def on_device(mask: Mask) -> mx.array:
    """A mask as `masked` takes it. A copy and no operation: any thread may make it."""
    return mx.array(mask.view(np.uint32))


def masked(logits: mx.array, mask: mx.array) -> mx.array:
    """Logits [rows, vocabulary] with minus infinity where the mask [rows, words] has no bit.

    Of five ways in plain MLX the quickest or near it on a CPU at 1, 8 and 64 rows; nothing is compiled.
    """
    allowed = (mask[:, :, None] & mx.array(BITS)) != 0
    return mx.where(allowed.reshape(len(mask), -1)[:, : logits.shape[-1]], logits, -mx.inf)
