"""From a request's sampling fields to the next token of every row at once.

The order is mlx-lm's own (`make_sampler`): logit bias and penalties change the logits; top_p, min_p
and top_k then narrow the model's distribution, and the temperature sharpens what is left. A row's
noise depends on its seed and position only, not on the batch it is in (Gumbel-max sampling).
"""

import math
import secrets
from typing import NamedTuple

import mlx.core as mx
import msgspec
import numpy as np

from shared.errors import BadRequest
from shared.generation import Generation
from workers.engines.llm.said import Scored

GOLDEN = 0x9E3779B97F4A7C15
COLDEST = 1e-4  # below it dividing by the temperature overflows


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a request that says nothing gets: OpenAI's values, or the model's `generation_config.json`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How one row chooses its tokens. `top_k` 0 keeps all; `seed` is below 2**64."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    logit_bias: dict[int, float]
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float

    @property
    def narrows(self) -> bool:
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0 or self.min_p > 0)

    @property
    def remembers(self) -> bool:
        """Whether what was said changes what comes."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1)

    def reseeded(self) -> "Sampling":
        """The same with another seed, by chance."""
        return msgspec.structs.replace(self, seed=secrets.randbits(64))


def sampling_of(request: Generation, defaults: Defaults, vocabulary: int, choice: int = 0) -> Sampling:
    """Of one choice: equal seeds give equal answers, so the choices of a request have seeds of their own.

    `vocabulary` is the number of logits: a top_k that keeps them all is none. Raises BadRequest for a
    token id that the model does not have.
    """
    logit_bias = {int(token): value for token, value in (request.logit_bias or {}).items()}
    if beyond := [token for token in logit_bias if token >= vocabulary]:
        raise BadRequest(
            f"'logit_bias' names token {beyond[0]}; this model's tokens are 0 to {vocabulary - 1}.",
            param="logit_bias",
        )
    top_k = _first(request.top_k, defaults.top_k)
    seed = secrets.randbits(64) if request.seed is None else request.seed
    return Sampling(
        temperature=_first(request.temperature, defaults.temperature),
        top_p=_first(request.top_p, defaults.top_p),
        top_k=top_k if 0 < top_k < vocabulary else 0,
        min_p=_first(request.min_p, defaults.min_p),
        seed=(seed + choice * 0x5851F42D4C957F2D) % 2**64,
        logit_bias=logit_bias,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty),
    )


def _first(asked: float | None, default: float) -> float:
    return default if asked is None else asked


def keys_of(rows: list[tuple[int, int]]) -> mx.array:
    """[rows, 2] uint32: the key of each (seed, position), as `mx.random.key` would make it."""
    states = np.array([(seed * GOLDEN + position) % 2**64 for seed, position in rows], dtype=np.uint64)
    halves = np.stack([states >> np.uint64(32), states & np.uint64(0xFFFFFFFF)], axis=1)
    return mx.array(halves.astype(np.uint32))


class Sampler:
    """Chooses one token a row from logits [rows, vocabulary]. For one set of rows.

    In float32: in 16 bits the probabilities of a nucleus do not add up to it, and close tokens become equal.
    Numbers are arrays: as Python constants each new value would be compiled anew and kept for ever.
    """

    def __init__(self, rows: list[Sampling]) -> None:
        self._hot = [index for index, row in enumerate(rows) if row.temperature > 0]
        self._all_hot = len(self._hot) == len(rows)
        hot = [rows[index] for index in self._hot]
        self._seeds = [row.seed for row in hot]
        self._index = mx.array(self._hot, dtype=mx.int32)
        self._scale = _column([1 / max(row.temperature, COLDEST) for row in hot])
        self._narrow = Narrowing(hot)

    def __call__(self, logits: mx.array, positions: list[int]) -> mx.array:
        """[rows] uint32. `positions` counts the tokens that each row has sampled before."""
        if not self._hot:
            return mx.argmax(logits, axis=-1)
        hot = (logits if self._all_hot else logits[self._index]).astype(mx.float32)
        hot -= mx.logsumexp(hot, axis=-1, keepdims=True)
        keys = keys_of([(seed, positions[row]) for seed, row in zip(self._seeds, self._hot, strict=True)])
        noise = mx.vmap(lambda key: mx.random.gumbel(hot.shape[1:], key=key))(keys)
        chosen = mx.argmax(self._narrow(hot) * self._scale + noise, axis=-1)
        if self._all_hot:
            return chosen
        tokens = mx.argmax(logits, axis=-1)
        tokens[self._index] = chosen
        return tokens


class Narrowing:
    """top_p, min_p and top_k of the rows that ask for one, as a floor under the log-probabilities."""

    def __init__(self, rows: list[Sampling]) -> None:
        asking = [index for index, row in enumerate(rows) if row.narrows]
        each = [rows[index] for index in asking]
        self._asking = mx.array(asking, dtype=mx.int32) if 0 < len(asking) < len(rows) else None
        self._any = bool(asking)
        self._deepest = max((row.top_k for row in each), default=0) if all(r.top_k for r in each) else 0
        self._top_p = _column([row.top_p if row.top_p < 1 else math.inf for row in each])
        self._top_k = _column([row.top_k or math.inf for row in each])
        self._log_min_p = _column([math.log(row.min_p) if row.min_p else -math.inf for row in each])

    def __call__(self, logprobs: mx.array) -> mx.array:
        if not self._any:
            return logprobs
        if self._asking is None:
            return _above(logprobs, self._floor(logprobs))
        narrowed = _above(logprobs[self._asking], self._floor(logprobs[self._asking]))
        logprobs = logprobs[:]
        logprobs[self._asking] = narrowed
        return logprobs

    def _floor(self, logprobs: mx.array) -> mx.array:
        """[rows, 1]: the least log-probability that may be chosen. With a top_k in every row only
        that many are sorted."""
        best = mx.topk(logprobs, self._deepest, axis=-1) if self._deepest else logprobs
        best = -mx.sort(-best, axis=-1)
        before = mx.cumsum(mx.exp(best), axis=-1, inclusive=False)
        kept = (before < self._top_p) & (mx.arange(best.shape[-1]) < self._top_k)
        kept &= best >= best[:, :1] + self._log_min_p
        last = mx.maximum(kept.sum(axis=-1, keepdims=True) - 1, 0)
        return mx.take_along_axis(best, last, axis=-1)


def _above(logprobs: mx.array, floor: mx.array) -> mx.array:
    return mx.where(logprobs < floor, -mx.inf, logprobs)


def _column(values: list[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]


class Bending:
    """Logit bias and penalties of a set of rows: arrays [rows, vocabulary], only if any row wants them."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._rows: list[Sampling] = []
        self._bias: mx.array | None = None
        self._asked: mx.array | None = None  # 1 for the tokens of the prompt
        self._counts: mx.array | None = None  # of the tokens of the answer
        self._set()

    def join(self, rows: list[Sampling], prompts: list[list[int]]) -> None:
        if self._bias is not None or any(row.logit_bias for row in rows):
            self._bias = self._stack(self._bias, [self._bias_of(row) for row in rows])
        if self._counts is not None or any(row.remembers for row in rows):
            pairs = zip(rows, prompts, strict=True)
            marks = [self._marks(prompt if row.repetition_penalty != 1 else []) for row, prompt in pairs]
            self._asked = self._stack(self._asked, marks)
            self._counts = self._stack(self._counts, [mx.zeros(self._vocabulary) for _ in rows])
        self._rows = self._rows + rows
        self._set()

    def keep(self, indices: list[int]) -> None:
        self._rows = [self._rows[index] for index in indices]
        if not any(row.logit_bias for row in self._rows):
            self._bias = None
        if not any(row.remembers for row in self._rows):
            self._asked = self._counts = None
        if self._bias is not None:
            self._bias = self._bias[mx.array(indices)]
        if self._counts is not None:
            self._counts = self._counts[mx.array(indices)]
            self._asked = self._asked[mx.array(indices)]
        self._set()

    def __call__(self, logits: mx.array, tokens: mx.array, said: list[bool]) -> mx.array:
        """`tokens` [rows] came last in each row; they count where they were `said`, not asked."""
        if self._bias is not None:
            logits = logits + self._bias
        if self._counts is None:
            return logits
        told = mx.array(said, dtype=mx.float32)
        self._counts = self._counts.at[mx.arange(len(said)), tokens].add(told)
        return self._penalise(logits)

    @property
    def state(self) -> list[mx.array]:
        """What must be computed with each step, or it grows into a graph of the whole answer."""
        return [] if self._counts is None else [self._counts]

    def _penalise(self, logits: mx.array) -> mx.array:
        seen = (self._counts + self._asked) > 0
        repeated = mx.where(logits < 0, logits * self._repetition, logits / self._repetition)
        logits = mx.where(seen, repeated, logits)
        return logits - self._frequency * self._counts - self._presence * (self._counts > 0)

    def _set(self) -> None:
        self._repetition = _column([row.repetition_penalty for row in self._rows])
        self._presence = _column([row.presence_penalty for row in self._rows])
        self._frequency = _column([row.frequency_penalty for row in self._rows])

    def _stack(self, rows: mx.array | None, more: list[mx.array]) -> mx.array:
        if rows is None:
            rows = mx.zeros((len(self._rows), self._vocabulary))
        return mx.concatenate([rows, mx.stack(more)])

    def _bias_of(self, row: Sampling) -> mx.array:
        bias = np.zeros(self._vocabulary, dtype=np.float32)
        bias[list(row.logit_bias)] = list(row.logit_bias.values())
        return mx.array(bias)

    def _marks(self, tokens: list[int]) -> mx.array:
        marks = np.zeros(self._vocabulary, dtype=np.float32)
        marks[tokens] = 1
        return mx.array(marks)


class Scores(NamedTuple):
    """Lazy: of `rows` tokens the log-probability [rows, 1], and [rows, top] ids and log-probabilities."""

    chosen: mx.array
    ids: mx.array
    values: mx.array

    def tell(self, tops: list[int]) -> list[Scored]:
        """Waits for the values. `tops` says how many alternatives each row wants."""
        each = zip(self.chosen.tolist(), self.ids.tolist(), self.values.tolist(), tops, strict=True)
        return [Scored(chosen[0], _best(ids, values, top)) for chosen, ids, values, top in each]


def score(logits: mx.array, tokens: mx.array, top: int) -> Scores:
    """What the model itself thinks of `tokens` [rows] by its `logits` [rows, vocabulary], in float32."""
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)
    ids = mx.zeros((len(logits), 0), dtype=mx.uint32)
    if top := min(top, logprobs.shape[-1]):
        ids = mx.argpartition(-logprobs, kth=top - 1, axis=-1)[:, :top]
    return Scores(chosen, ids, mx.take_along_axis(logprobs, ids, axis=-1))


def _best(ids: list[int], values: list[float], top: int) -> list[tuple[int, float]]:
    return sorted(zip(ids, values, strict=True), key=lambda pair: (-pair[1], pair[0]))[:top]
