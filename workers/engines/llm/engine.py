"""The engine: many chats and completions in one continuous batch."""

import logging
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import EngineError
from shared.events import Delta, Event
from shared.jobs import JobSpec
from workers import memory
from workers.engine import Output, Prepared
from workers.engines.llm import caches
from workers.engines.llm.decoding import Said
from workers.engines.llm.generator import Generator
from workers.engines.llm.models import Models
from workers.engines.llm.options import Options
from workers.engines.llm.prefixes import Prefixes
from workers.engines.llm.preparation import Preparation
from workers.engines.llm.ranks import Leader, Leading
from workers.engines.llm.reading import Prompt
from workers.engines.llm.said import Cached, PromptScores, Token
from workers.engines.llm.sampling import Defaults
from workers.engines.llm.voice import Voice

IDLE_SHARE = 16  # of what the device recommends, one part may stay for the next request: allocating is slow

log = logging.getLogger("ominix.llm")


class LlmEngine:
    """Serves `slots` answers at once. `vocabulary` is the number of logits, `leader` what leads the other
    ranks of a model that is divided among several hosts."""

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
        draft: Any = None,
        leader: Leader | None = None,
    ) -> None:
        self._models, self._tokenizer = Models(model, draft, leader and leader.group), tokenizer
        self._leader = leader
        self.slots = slots_of(self._models, slots)
        self._vocabulary, self._options = vocabulary, options.settled()
        self._start()
        self._preparation = Preparation(
            tokenizer,
            slots=self.slots,
            context_length=context_length,
            vocabulary=vocabulary,
            defaults=defaults,
            boundaries=self._prefixes.needs_boundaries,
        )
        self._voices: dict[str, Voice] = {}
        self._idle_bytes = memory.device_info()["max_recommended_working_set_size"] // IDLE_SHARE

    def _start(self) -> None:
        ends = self._tokenizer.eos_token_ids
        self._prefixes = Prefixes(self._models, self._options.prompt_cache_bytes)
        generator = Generator(self._models, self._vocabulary, ends, self.slots, self._options, self._prefixes)
        self._generator = Leading(generator, self._leader) if self._leader else generator
        self._open: dict[str, int] = {}  # choices of a job that have not ended

    # --- any thread

    def prepare(self, spec: JobSpec, file: str | None, said: Sequence[Delta] = ()) -> Prepared:
        work = self._preparation.work(spec)
        return Prepared(spec, work, work.size)

    def render(self, job_id: str, outputs: Iterable[Output]) -> list[Event]:
        voice = self._voices.get(job_id)
        return voice.render(outputs) if voice else []

    def forget(self, job_id: str) -> None:
        self._voices.pop(job_id, None)

    # --- the engine thread

    def has_room(self, prepared: Prepared) -> bool:
        return len(self._open) < self.slots

    def add(self, prepared: Prepared) -> None:
        job_id, work = prepared.spec.id, prepared.work
        if not all(sequence.tokens for sequence in work.sequences):
            raise ValueError("a prompt has no tokens")
        self._voices[job_id] = work.voice
        self._open[job_id] = work.choices
        for sequence in work.sequences:
            self._generator.add(sequence)

    def step(self) -> list[tuple[str, Output]]:
        if self._generator.idle:
            return []
        outputs: list[tuple[str, Output]] = []
        try:
            read, said = self._generator.step()
            outputs += self._read(read) + self._said(said)
            self._generator.end([row for row, tokens in said if tokens[-1].finish_reason])
            outputs += self._faults()
            self._silence()
        except Exception as error:
            outputs += self._break(error)
        if self._generator.idle and mx.get_cache_memory() > self._idle_bytes:
            mx.clear_cache()
        return outputs

    def abort(self, job_id: str) -> None:
        if self._open.pop(job_id, None) is not None:
            self._generator.remove(job_id)

    def close(self) -> None:
        self._open.clear()
        if self._leader:
            self._leader.close()
        del self._generator, self._prefixes, self._models
        mx.clear_cache()

    def _read(self, read: list[Prompt]) -> list[tuple[str, Output]]:
        outputs = []
        for prompt in read:
            sequence = prompt.sequence
            if prompt.cached and not sequence.again:
                outputs.append(self._output(sequence.job_id, Cached(prompt.cached)))
            if sequence.score_prompt:
                outputs.append(self._output(sequence.job_id, PromptScores(sequence.prompt, prompt.scored)))
            if not sequence.max_tokens:
                ends = [Token(None, "length", sample.choice) for sample in sequence.samples]
                outputs += [self._output(sequence.job_id, end) for end in ends]
        return outputs

    def _said(self, said: list[Said]) -> list[tuple[str, Output]]:
        return [self._output(row.job_id, token) for row, tokens in said for token in tokens]

    def _output(self, job_id: str, payload: Any) -> tuple[str, Output]:
        """A job's last output is that which ends the last of its choices."""
        if not (isinstance(payload, Token) and payload.finish_reason):
            return job_id, Output(payload)
        self._open[job_id] -= 1
        if last := not self._open[job_id]:
            del self._open[job_id]
        return job_id, Output(payload, last=last)

    def _faults(self) -> list[tuple[str, Output]]:
        """A row whose grammar broke ends its job and no other."""
        rows = self._generator.rows
        failed = {row.job_id: row.constraint.error for row in rows if row.constraint and row.constraint.error}
        for job_id in failed:
            self.abort(job_id)
        return [(job_id, Output(error=error)) for job_id, error in failed.items()]

    def _silence(self) -> None:
        """Choices that a stop string has ended need no more tokens, though others of their job do. The voice
        of a job that is over may be gone before its abort comes."""
        several = [row for row in self._generator.rows if self._open[row.job_id] > 1]
        voices = [(row, self._voices.get(row.job_id)) for row in several]
        done = [row for row, voice in voices if voice and voice.ended(row.sample.choice)]
        self._generator.end(done)
        for row in done:
            self._open[row.job_id] -= 1

    def _break(self, error: Exception) -> list[tuple[str, Output]]:
        """A step that failed leaves its rows, and the prompt cache, in no state to go on from: end them, and
        begin anew. What the error's frames hold of them may be what there was no memory for. Of other ranks
        nobody knows how far they came: with those, the process ends."""
        if self._leader:
            self._leader.give_up(error)
        failed = list(self._open)
        log.error("a step failed, and with it %d jobs", len(failed), exc_info=error)
        traceback.clear_frames(error.__traceback__)
        self._start()
        mx.clear_cache()
        broken = EngineError(f"The model failed in a step ({type(error).__name__}); try again.")
        return [(job_id, Output(error=broken)) for job_id in failed]


def slots_of(models: Models, slots: int) -> int:
    """Raises ValueError for a draft model beside caches that cannot be cut back."""
    if models.draft and not (caches.shortens(models.make_cache()) and models.rows != "one"):
        raise ValueError("options.draft_model: this model, or its draft, has a cache that cannot be cut back")
    return 1 if models.rows == "one" else slots
