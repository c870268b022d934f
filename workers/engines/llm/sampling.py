"""From a request's sampling fields to mlx-lm samplers and logits processors.

Nothing here raises inside a step: an error there would leave a duplicate entry in the cache of the
other rows (mlx-lm 0.32.2), so it is kept in `error` and the row is taken out after the step.
"""

import math
from collections.abc import Callable
from weakref import WeakValueDictionary

import mlx.core as mx
import msgspec
from mlx_lm.sample_utils import apply_top_k, apply_top_p, greedy_sampler, make_logits_processors

from shared.errors import BadRequest
from shared.tasks.chat import Request

WHOLE = 2**31  # a penalty looks at all tokens; mlx-lm's default is the last 20
GOLDEN = 0x9E3779B97F4A7C15


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a request that says nothing gets: OpenAI's values, or the model's `generation_config.json`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose a token. Two requests with equal values can share one sampler."""

    temperature: float
    top_p: float
    top_k: int  # 0: all
    min_p: float
    seed: int | None


class Bias(msgspec.Struct, frozen=True, kw_only=True):
    """What is added to the logits before."""

    logit_bias: dict[int, float]
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float


def sampling_of(request: Request, defaults: Defaults, vocabulary: int) -> Sampling:
    """`vocabulary` is the number of logits: a top_k that keeps them all is none."""
    top_k = _first(request.top_k, defaults.top_k)
    return Sampling(
        temperature=_first(request.temperature, defaults.temperature),
        top_p=_first(request.top_p, defaults.top_p),
        top_k=top_k if top_k < vocabulary else 0,
        min_p=_first(request.min_p, defaults.min_p),
        seed=request.seed,
    )


def bias_of(request: Request, defaults: Defaults, vocabulary: int) -> Bias:
    """Raises BadRequest for a token id that the model does not have."""
    logit_bias = {int(token): value for token, value in (request.logit_bias or {}).items()}
    if beyond := [token for token in logit_bias if token >= vocabulary]:
        raise BadRequest(
            f"'logit_bias' names token {beyond[0]}; this model's tokens are 0 to {vocabulary - 1}.",
            param="logit_bias",
        )
    return Bias(
        logit_bias=logit_bias,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty),
    )


def _first(asked: float | None, default: float) -> float:
    return default if asked is None else asked


class Sampler:
    """Chooses one token a row from log-probabilities [rows, vocabulary], as mlx-lm's own chain does.

    Numbers are arrays: as Python constants each new value would be compiled anew and kept for ever.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.error: Exception | None = None
        self._sampling = sampling
        self._top_p = mx.array(sampling.top_p)
        self._log_min_p = mx.array(math.log(sampling.min_p)) if sampling.min_p else None
        self._scale = mx.array(1.0 / max(sampling.temperature, 1e-4))

    def __call__(self, logprobs: mx.array) -> mx.array:
        try:
            return mx.random.categorical(self._narrow(logprobs) * self._scale, key=self._key())
        except Exception as error:
            self.error = error
            return greedy_sampler(logprobs)

    def _narrow(self, logprobs: mx.array) -> mx.array:
        if self._sampling.top_p < 1:
            logprobs = apply_top_p(logprobs, self._top_p)
        if self._log_min_p is not None:
            least = mx.max(logprobs, axis=-1, keepdims=True) + self._log_min_p
            logprobs = mx.where(logprobs < least, -mx.inf, logprobs)
        if self._sampling.top_k:
            logprobs = apply_top_k(logprobs, self._sampling.top_k)
        return logprobs

    def _key(self) -> mx.array | None:
        return None


class SeededSampler(Sampler):
    """Its key depends on the seed and the position only: not on the batch, nor on what ran before."""

    def __init__(self, sampling: Sampling, position: int = 0) -> None:
        super().__init__(sampling)
        self._position = position

    def _key(self) -> mx.array:
        state = ((self._sampling.seed or 0) * GOLDEN + self._position) % 2**64
        self._position += 1
        return mx.random.key(state)


class SamplerPool:
    """Equal unseeded requests share one sampler: mlx-lm calls it once for a batch that has no other.

    One row with a sampler of its own makes mlx-lm call every row's, so greedy rows have none (None
    is the generator's greedy default).
    """

    def __init__(self) -> None:
        self._shared: WeakValueDictionary[Sampling, Sampler] = WeakValueDictionary()

    def sampler(self, sampling: Sampling) -> Sampler | None:
        if sampling.temperature == 0:
            return None
        if sampling.seed is not None:
            return SeededSampler(sampling)
        if (known := self._shared.get(sampling)) and not known.error:
            return known
        self._shared[sampling] = made = Sampler(sampling)
        return made


class Bent:
    """mlx-lm's logits processors of one row, as one that never raises."""

    def __init__(self, bias: Bias, prompt_tokens: int) -> None:
        self.error: Exception | None = None
        self._prompt_tokens = prompt_tokens
        self._everywhere = make_logits_processors(
            bias.logit_bias or None,
            repetition_penalty=bias.repetition_penalty if bias.repetition_penalty != 1 else None,
            repetition_context_size=WHOLE,
        )
        self._on_the_answer = make_logits_processors(
            presence_penalty=bias.presence_penalty,
            presence_context_size=WHOLE,
            frequency_penalty=bias.frequency_penalty,
            frequency_context_size=WHOLE,
        )

    def __bool__(self) -> bool:
        return bool(self._everywhere or self._on_the_answer)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """`tokens` [length] are prompt and answer so far; `logits` [1, vocabulary] of the next."""
        try:
            return self._bend(tokens, logits)
        except Exception as error:
            self.error = error
            return logits

    def _bend(self, tokens: mx.array, logits: mx.array) -> mx.array:
        for bend in self._everywhere:
            logits = bend(tokens, logits)
        answer = tokens[self._prompt_tokens :]
        for bend in self._on_the_answer:
            logits = bend(answer, logits)
        return logits


Guard = Sampler | Bent
Chooser = Callable[[mx.array], mx.array]
