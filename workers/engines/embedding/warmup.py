"""The first use of a shape compiles its kernels, and the first steps show how fast the device is."""

import time

from shared.jobs import JobSpec
from workers.engine import Prepared
from workers.engines.embedding.engine import EmbeddingEngine

SECONDS = 3.0  # then whoever waits for the model has waited long enough
LENGTHS = (16, 16, 16, 16, 32, 64, 128, 256, 16)  # tokens


def warm_up(engine: EmbeddingEngine, longest: int, seconds: float = SECONDS) -> None:
    """Compute full steps of short and then of longer inputs, while there is time left.

    Raises what a step raised: a model that cannot embed now cannot embed at all.
    """
    end = time.monotonic() + seconds
    for length in LENGTHS:
        _compute(engine, min(length, longest))
        if time.monotonic() > end:
            return


def _compute(engine: EmbeddingEngine, length: int) -> None:
    prepared = _prepared(engine, length, engine.budget.tokens // length + 1)
    engine.add(prepared)
    last = False
    while not last:
        for _, output in engine.step():
            if output.error:
                raise output.error
            last = output.last
    engine.forget(prepared.spec.id)


def _prepared(engine: EmbeddingEngine, length: int, rows: int) -> Prepared:
    params = {"model": "warm-up", "input": [[1] * length] * rows}
    spec = JobSpec(id="warm-up", task="embedding", model="warm-up", params=params, created=0, timeout=60)
    return engine.prepare(spec, None)
