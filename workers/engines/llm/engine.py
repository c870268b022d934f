"""The engine: many chats in one continuous batch of mlx-lm's BatchGenerator."""

from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
import msgspec
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import EngineError
from shared.events import Delta, Event
from shared.jobs import JobSpec
from shared.tasks.chat import Request
from workers.answer import token_budget
from workers.engine import Output, Prepared
from workers.engines.llm.generator import Options, Prefill, batch_generator
from workers.engines.llm.prompt import ChatTemplate
from workers.engines.llm.sampling import (
    Bent,
    Bias,
    Defaults,
    Guard,
    SamplerPool,
    Sampling,
    bias_of,
    sampling_of,
)
from workers.engines.llm.voice import Token, Voice


class Chat(msgspec.Struct):
    """A prepared chat."""

    tokens: list[int]
    max_tokens: int
    sampling: Sampling
    bias: Bias
    voice: Voice


class Row(msgspec.Struct):
    """A job in the generator."""

    job_id: str
    guards: list[Guard]

    @property
    def error(self) -> Exception | None:
        return next((guard.error for guard in self.guards if guard.error), None)


class LlmEngine:
    """Serves `slots` chats at once. `vocabulary` is the number of logits."""

    def __init__(
        self,
        model: Any,
        tokenizer: TokenizerWrapper,
        *,
        slots: int,
        context_length: int,
        vocabulary: int,
        defaults: Defaults,
        options: Options,
    ) -> None:
        self.slots = slots
        self._model, self._tokenizer = model, tokenizer
        self._context_length, self._vocabulary, self._defaults = context_length, vocabulary, defaults
        self._options = options
        self._template = ChatTemplate(tokenizer)
        self._samplers = SamplerPool()
        self._prefill = Prefill(options)
        self._waiting: dict[str, Chat] = {}
        self._voices: dict[str, Voice] = {}
        self._start()

    def _start(self) -> None:
        self._generator = batch_generator(self._model, self._tokenizer, self.slots, self._options)
        self._prefill.clear()
        self._rows: dict[int, Row] = {}
        self._uids: dict[str, int] = {}

    def prepare(self, spec: JobSpec, file: str | None, said: Sequence[Delta] = ()) -> Prepared:
        request = msgspec.convert(spec.params, Request)
        tokens = self._template.tokens(request)
        chat = Chat(
            tokens,
            token_budget(len(tokens), request.token_limit, self._context_length),
            sampling_of(request, self._defaults, self._vocabulary),
            bias_of(request, self._defaults, self._vocabulary),
            Voice(self._tokenizer.detokenizer, len(tokens), request.stop_strings),
        )
        return Prepared(spec, chat, chat.max_tokens + len(tokens))

    def has_room(self, prepared: Prepared) -> bool:
        return len(self._waiting) + len(self._rows) < self.slots

    def add(self, prepared: Prepared) -> None:
        self._voices[prepared.spec.id] = prepared.work.voice
        self._waiting[prepared.spec.id] = prepared.work

    def step(self) -> list[tuple[str, Output]]:
        refused = self._admit()
        if not self._rows:
            return refused
        try:
            with self._generator.stats() as stats:
                read, said = self._generator.next()
        except Exception as error:
            return refused + self._break(error)
        self._prefill.advance(read)
        self._prefill.measure(stats.prompt_tokens, stats.prompt_time)
        outputs = refused + [self._output(r.uid, r.token, r.finish_reason) for r in said] + self._faults()
        if not self._rows and not self._waiting:
            mx.clear_cache()
        return outputs

    def abort(self, job_id: str) -> None:
        self._waiting.pop(job_id, None)
        if (uid := self._uids.get(job_id)) is not None:
            self._forget_row(uid)
            with mx.stream(self._generator.stream):
                self._generator.remove([uid])

    def render(self, job_id: str, outputs: Iterable[Output]) -> list[Event]:
        voice = self._voices.get(job_id)
        return voice.render(outputs) if voice else []

    def forget(self, job_id: str) -> None:
        self._voices.pop(job_id, None)

    def close(self) -> None:
        self._waiting.clear()
        self._rows.clear()
        self._generator.close()
        del self._generator, self._model
        mx.clear_cache()

    def _admit(self) -> list[tuple[str, Output]]:
        """Hand waiting prompts, oldest first, to the generator while the step's budget lasts."""
        refused = []
        while self._waiting:
            job_id, chat = next(iter(self._waiting.items()))
            if not self._prefill.fits(len(chat.tokens)):
                break
            del self._waiting[job_id]
            try:
                self._insert(job_id, chat)
            except Exception as error:
                refused.append((job_id, Output(error=error)))
        return refused

    def _insert(self, job_id: str, chat: Chat) -> None:
        sampler = self._samplers.sampler(chat.sampling)
        bent = Bent(chat.bias, len(chat.tokens))
        [uid] = self._generator.insert(
            [chat.tokens], [chat.max_tokens], samplers=[sampler], logits_processors=[[bent] if bent else []]
        )
        self._rows[uid] = Row(job_id, [guard for guard in (sampler, bent) if guard])
        self._uids[job_id] = uid
        self._prefill.begin(uid, len(chat.tokens))

    def _output(self, uid: int, token: int, finish_reason: str | None) -> tuple[str, Output]:
        job_id = self._rows[uid].job_id
        if finish_reason:
            self._forget_row(uid)
        return job_id, Output(Token(token, finish_reason), last=finish_reason is not None)

    def _faults(self) -> list[tuple[str, Output]]:
        failed = [(row.job_id, row.error) for row in self._rows.values() if row.error]
        for job_id, _ in failed:
            self.abort(job_id)
        return [(job_id, Output(error=error)) for job_id, error in failed]

    def _break(self, error: Exception) -> list[tuple[str, Output]]:
        """A step that failed leaves its rows in no state to go on from: end them, and begin anew."""
        failed = [row.job_id for row in self._rows.values()]
        self._generator.close()
        self._start()
        mx.clear_cache()
        broken = EngineError(f"The model failed in a step ({type(error).__name__}); try again.")
        broken.__cause__ = error
        return [(job_id, Output(error=broken)) for job_id in failed]

    def _forget_row(self, uid: int) -> None:
        row = self._rows.pop(uid)
        del self._uids[row.job_id]
        self._prefill.end(uid)
