"""The engine: inputs of all its jobs share its batches."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

import mlx.core as mx
import msgspec
import numpy as np

from shared.errors import BadRequest, EngineError
from shared.events import Delta, Event
from shared.jobs import JobSpec
from shared.tasks.embedding import Request
from workers.engine import Output, Prepared
from workers.engines.embedding.encoder import Encoder
from workers.engines.embedding.lineup import Budget, Lineup, Row, batches, padded
from workers.engines.embedding.tokens import Tokens
from workers.engines.embedding.voice import Computed, Voice

CACHE = 512 << 20  # bytes of MLX's unused buffers that are kept

Found = tuple[int, np.ndarray]  # the index of an input, and its vector


class Work(msgspec.Struct):
    """A prepared request: the inputs of which nothing has been told yet, and what renders them."""

    rows: list[Row]
    voice: Voice


class EmbeddingEngine:
    """Serves `slots` requests at once. A step computes inputs of all of them, each as long as the
    `budget` lasts; those of one length share a batch."""

    def __init__(self, encoder: Encoder, slots: int, budget: Budget) -> None:
        self.slots = slots
        self.budget = budget
        self._encoder = encoder
        self._tokens = Tokens(encoder)
        self._lineup = Lineup()
        self._voices: dict[str, Voice] = {}

    def prepare(self, spec: JobSpec, file: str | None, said: Sequence[Delta] = ()) -> Prepared:
        request = msgspec.convert(spec.params, Request)
        width = self._encoder.dimensions
        if (request.dimensions or 0) > width:
            raise BadRequest(
                f"This model's vectors have {width} dimensions; {request.dimensions} were asked for.",
                param="dimensions",
            )
        inputs = self._tokens.of(request)
        voice = Voice([len(each) for each in inputs], request.dimensions, width, said)
        rows = [Row(spec.id, index, each) for index, each in enumerate(inputs) if index not in voice.told]
        return Prepared(spec, Work(rows, voice), sum(len(row.tokens) for row in rows))

    def has_room(self, prepared: Prepared) -> bool:
        return len(self._lineup) < self.slots

    def add(self, prepared: Prepared) -> None:
        spec, work = prepared.spec, prepared.work
        self._voices[spec.id] = work.voice
        self._lineup.add(spec.id, work.rows, urgent=spec.lane == "interactive")

    def step(self) -> list[tuple[str, Output]]:
        found, errors = self._compute(self._lineup.take(self.budget.tokens))
        for job_id in errors:
            self._lineup.remove(job_id)
        ended = self._lineup.finished()
        for job_id in ended:
            self._lineup.remove(job_id)
        if mx.get_cache_memory() > CACHE:
            mx.clear_cache()
        failed = [(job_id, Output(error=error)) for job_id, error in errors.items()]
        told = [job_id for job_id in dict.fromkeys([*found, *ended]) if job_id not in errors]
        return failed + [(job_id, _output(found.get(job_id), job_id in ended)) for job_id in told]

    def abort(self, job_id: str) -> None:
        self._lineup.remove(job_id)

    def render(self, job_id: str, outputs: Iterable[Output]) -> list[Event]:
        voice = self._voices.get(job_id)
        return voice.render(outputs) if voice else []

    def forget(self, job_id: str) -> None:
        self._voices.pop(job_id, None)

    def close(self) -> None:
        self._lineup = Lineup()
        del self._encoder, self._tokens
        mx.clear_cache()

    def _compute(self, rows: list[Row]) -> tuple[dict[str, list[Found]], dict[str, Exception]]:
        """Vectors, and errors, by job."""
        found: dict[str, list[Found]] = defaultdict(list)
        errors: dict[str, Exception] = {}
        began, tokens = time.perf_counter(), 0
        for batch in batches(rows, self.budget.forward):
            length = min(padded(len(batch[0].tokens)), self._encoder.longest)
            tokens += length * len(batch)
            for row, vector in zip(batch, self._run(batch, length), strict=True):
                if isinstance(vector, Exception):
                    errors[row.job_id] = vector
                elif vector is not None:
                    found[row.job_id].append((row.index, vector))
        if found:
            self.budget.speed.measure(tokens, time.perf_counter() - began)
        return found, errors

    def _run(self, batch: list[Row], length: int) -> Sequence[np.ndarray | Exception | None]:
        """A vector for each row; None for those of a batch that failed, which are tried again one by one."""
        try:
            vectors = np.array(self._encoder.vectors([row.tokens for row in batch], length))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            self._lineup.put_back(batch)
            return [None] * len(batch)
        finite = np.isfinite(vectors).all(axis=1)
        return [vectors[at] if finite[at] else _not_finite(row) for at, row in enumerate(batch)]


def _output(computed: list[Found] | None, last: bool) -> Output:
    if not computed:
        return Output(last=last)
    indices, vectors = zip(*computed, strict=True)
    return Output(Computed(indices, np.stack(vectors)), last=last)


def _not_finite(row: Row) -> EngineError:
    return EngineError(f"The model's vector of 'input[{row.index}]' has values that are no numbers.")
