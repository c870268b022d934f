"""From one job's vectors to its events. No model in it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from shared.errors import WorkerDied
from shared.events import Delta, Done, Event
from shared.tasks import embedding
from workers.engine import Output

FLOAT = np.dtype("<f4")


class Computed(NamedTuple):
    """What a step says of a job: `vectors` [rows, dimensions] float32 of the inputs `indices`."""

    indices: Sequence[int]
    vectors: np.ndarray


class Voice:
    """Renders the vectors of one job, cut to `dimensions` if that was asked for. `said` is what an earlier
    attempt has told; `sizes` are the tokens of each input, `width` is that of the model's vectors.

    Raises WorkerDied if what was told is of another model's width.
    """

    def __init__(
        self, sizes: Sequence[int], dimensions: int | None, width: int, said: Iterable[Delta] = ()
    ) -> None:
        self._sizes = sizes
        self._dimensions = dimensions
        self._total = sum(sizes)
        told = dict(embedding.vectors(said))
        if any(len(values) != FLOAT.itemsize * (dimensions or width) for values in told.values()):
            raise WorkerDied("A worker died, and the model has changed since. Please send the request again.")
        self.told = set(told)
        self._computed = sum(sizes[index] for index in self.told)

    def render(self, outputs: Iterable[Output]) -> list[Event]:
        outputs = list(outputs)
        computed = [output.payload for output in outputs if output.payload]
        events: list[Event] = self._tell(computed) if computed else []
        return [*events, self._end()] if any(output.last for output in outputs) else events

    def _tell(self, computed: list[Computed]) -> list[Event]:
        indices = [index for each in computed for index in each.indices]
        self._computed += sum(self._sizes[index] for index in indices)
        vectors = cut(np.concatenate([each.vectors for each in computed]), self._dimensions)
        rows = [vector.tobytes() for vector in vectors.astype(FLOAT)]
        return embedding.deltas(indices, rows, round(self._computed / self._total, 4))

    def _end(self) -> Done:
        usage = {"prompt_tokens": self._total, "total_tokens": self._total}
        return Done({"count": len(self._sizes)}, usage)


def cut(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """The first `dimensions` of each vector, scaled to length 1 (https://arxiv.org/abs/2205.13147)."""
    if dimensions is None:
        return vectors
    kept = vectors[:, :dimensions]
    return kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), np.finfo(np.float32).tiny)
