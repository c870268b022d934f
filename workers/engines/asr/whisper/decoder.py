"""Whisper's text decoder over rows that come and go: continuous batching of windows of audio.

The arithmetic is that of `mlx_audio.stt.models.whisper` (`TextDecoder`, `DecodingTask`); what is new is
that rows may differ in length, temperature and language, and join or leave at any step.
"""

from collections.abc import Hashable, Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx_lm.models.cache import BatchKVCache, KVCache

from workers.engines.asr.whisper.encoder import attend, heads
from workers.engines.asr.whisper.rules import Rules


class Window(msgspec.Struct):
    """One decoding: `features` [positions, width] of 30 s of audio, after the tokens of `prompt`.

    `start` are the tokens that begin a transcript; `seed` counts above temperature 0 only.
    """

    key: Hashable
    features: mx.array
    start: tuple[int, ...]
    prompt: list[int]
    temperature: float = 0.0
    seed: int = 0


class Decoded(msgspec.Struct):
    """`tokens` before the end of text and their log-probabilities; `end_logprob` is that of the end,
    0 where the limit came first."""

    tokens: list[int]
    logprobs: list[float]
    end_logprob: float
    no_speech_prob: float

    @property
    def avg_logprob(self) -> float:
        return (sum(self.logprobs) + self.end_logprob) / (len(self.tokens) + 1)


class Row(msgspec.Struct):
    """A window that is being decoded."""

    key: Hashable
    temperature: float
    random: mx.array
    no_speech_prob: float
    tokens: list[int] = []
    logprobs: list[float] = []


class Decoder:
    """Decodes windows side by side, one token a step for each. For the engine thread.

    `tokenizer` is any of the model's: what differs between its languages and tasks is in a window's
    `start`. A row ends at the end of text or after `limit` tokens.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._text = model.decoder
        self._eot: int = tokenizer.eot
        self._sot: int = tokenizer.sot
        self._sot_prev: int = tokenizer.sot_prev
        self._no_speech: int | None = tokenizer.no_speech
        self._rules = Rules(tokenizer, model.dims.n_vocab, model.dims.n_audio_ctx)
        self._longest_prompt = model.dims.n_text_ctx // 2 - 1
        self._rows: list[Row] = []
        self._self: list[BatchKVCache] = []  # a layer each
        self._cross: list[tuple[mx.array, mx.array]] = []  # keys and values [rows, heads, positions, width]
        self._tokens: mx.array | None = None  # [rows] that are being computed, and their log-probabilities
        self._logprobs: mx.array | None = None
        self._before: mx.array | None = None  # [rows] the tokens before those
        self.limit: int = model.dims.n_text_ctx // 2

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, window: Window) -> None:
        """Read a window's prompt; its first token comes with the next step."""
        prompt = window.prompt[-self._longest_prompt :]
        tokens = [*([self._sot_prev, *prompt] if prompt else []), *window.start]
        caches = [KVCache() for _ in self._text.blocks]
        cross = [self._cross_of(block, window.features[None]) for block in self._text.blocks]
        logits = self._forward(mx.array([tokens]), mx.arange(len(tokens))[None], caches, cross, "causal")
        silence = mx.array(float("nan"))
        if self._no_speech is not None:
            silence = mx.softmax(logits[0, tokens.index(self._sot)], axis=-1)[self._no_speech]
        first = self._rules.first(logits[:, -1])
        row = Row(window.key, window.temperature, mx.random.key(window.seed), 0.0, [], [])
        token, logprob = self._sample(first, [row])
        mx.eval(token, logprob, silence)
        row.no_speech_prob = silence.item()
        self._join(row, token, logprob, [BatchKVCache.merge([cache]) for cache in caches], cross)

    def step(self) -> list[tuple[Hashable, Decoded]]:
        """One token for every row; the rows that have ended."""
        if not self._rows:
            return []
        tokens, logprobs = self._tokens, self._logprobs
        self._tokens, self._logprobs = self._next(tokens)
        mx.async_eval(self._tokens, self._logprobs)  # while the tokens before are looked at
        ended = []
        for row, token, logprob in zip(self._rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if token == self._eot:
                ended.append((row, logprob))
                continue
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if len(row.tokens) >= self.limit:
                ended.append((row, 0.0))
        self._keep([row for row in self._rows if all(row is not each for each, _ in ended)])
        return [(row.key, _decoded(row, end)) for row, end in ended]

    def abort(self, key: Hashable) -> None:
        if any(row.key == key for row in self._rows):
            self._keep([row for row in self._rows if row.key != key])

    def _next(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        positions = self._self[0].offset[:, None]
        mask = self._self[0].make_mask(1)
        logits = self._forward(tokens[:, None], positions, self._self, self._cross, mask)[:, -1]
        allowed = self._rules.following(logits, tokens, self._before)
        self._before = tokens
        return self._sample(allowed, self._rows)

    def _sample(self, logits: mx.array, rows: Iterable[Row]) -> tuple[mx.array, mx.array]:
        """Tokens and log-probabilities [rows] of logits [rows, vocabulary], each row at its temperature."""
        choice = logits
        if any(row.temperature for row in rows):
            choice = mx.stack([self._hot(logits[at], row) for at, row in enumerate(rows)])
        tokens = mx.argmax(choice, axis=-1)
        logprobs = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0] - mx.logsumexp(logits, axis=-1)
        return tokens, logprobs

    def _hot(self, logits: mx.array, row: Row) -> mx.array:
        """Gumbel's trick with the row's own random numbers: the company makes no difference."""
        if not row.temperature:
            return logits
        row.random, now = mx.random.split(row.random)
        return logits / row.temperature + mx.random.gumbel(logits.shape, key=now)

    def _forward(
        self, tokens: mx.array, positions: mx.array, caches: list, cross: list, mask: Any
    ) -> mx.array:
        """Logits [rows, length, vocabulary] in float32."""
        text = self._text
        x = text.token_embedding(tokens) + text.positional_embedding[positions]
        for block, cache, (keys, values) in zip(text.blocks, caches, cross, strict=True):
            attention, y = block.attn, block.attn_ln(x)
            own = cache.update_and_fetch(
                heads(attention, attention.key(y)), heads(attention, attention.value(y))
            )
            x = x + attend(attention, y, *own, mask)
            x = x + attend(block.cross_attn, block.cross_attn_ln(x), keys, values, None)
            x = x + block.mlp2(nn.gelu(block.mlp1(block.mlp_ln(x))))
        return text.token_embedding.as_linear(text.ln(x)).astype(mx.float32)

    def _cross_of(self, block: Any, features: mx.array) -> tuple[mx.array, mx.array]:
        attention = block.cross_attn
        return heads(attention, attention.key(features)), heads(attention, attention.value(features))

    def _join(
        self, row: Row, token: mx.array, logprob: mx.array, caches: list[BatchKVCache], cross: list
    ) -> None:
        before = mx.array([self._rules.timestamp_begin])  # the first timestamp is as if one had come before
        if not self._rows:
            self._self, self._cross = caches, cross
            self._tokens, self._logprobs, self._before = token, logprob, before
        else:
            for mine, new in zip(self._self, caches, strict=True):
                mine.extend(new)
            self._cross = [
                tuple(map(mx.concatenate, zip(mine, new, strict=True)))
                for mine, new in zip(self._cross, cross, strict=True)
            ]
            self._tokens = mx.concatenate([self._tokens, token])
            self._logprobs = mx.concatenate([self._logprobs, logprob])
            self._before = mx.concatenate([self._before, before])
        self._rows.append(row)

    def _keep(self, rows: list[Row]) -> None:
        if len(rows) == len(self._rows):
            return
        staying = {id(row) for row in rows}
        at = mx.array([index for index, row in enumerate(self._rows) if id(row) in staying], mx.int32)
        self._rows = rows
        if not rows:
            self._self, self._cross = [], []
            self._tokens = self._logprobs = self._before = None
            return
        for cache in self._self:
            cache.filter(at)
        self._cross = [(keys[at], values[at]) for keys, values in self._cross]
        self._tokens, self._logprobs, self._before = self._tokens[at], self._logprobs[at], self._before[at]


def _decoded(row: Row, end_logprob: float) -> Decoded:
    return Decoded(row.tokens, row.logprobs, end_logprob, row.no_speech_prob)
