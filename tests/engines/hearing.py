"""Drives a recognizer as the engine does, in one thread: what was heard in each of several chunks."""

from collections.abc import Mapping

import numpy as np

from workers.engines.asr.recognizer import Asked, Hearing, Key, Recognizer

Chunk = tuple[np.ndarray, Asked]
ENOUGH = 100_000  # steps


def hear(
    recognizer: Recognizer,
    chunks: Mapping[Key, Chunk],
    joins: Mapping[Key, int] | None = None,
    leaves: Mapping[Key, int] | None = None,
) -> dict[Key, Hearing | Exception]:
    """Hear `chunks` together. `joins` says after how many steps a chunk is added (0), `leaves` after how
    many it is aborted (never). A chunk waits for room, as it does in a worker."""
    joins, leaves = joins or {}, leaves or {}
    coming = sorted(chunks, key=lambda key: joins.get(key, 0))
    open_, added, heard = set(chunks), set(), {}
    for step in range(ENOUGH):
        while coming and joins.get(coming[0], 0) <= step and len(added & open_) < recognizer.rows:
            added.add(coming[0])
            recognizer.add(coming[0], *chunks[coming.pop(0)])
        for key in [key for key, when in leaves.items() if when == step and key in open_]:
            recognizer.abort(key)
            open_.discard(key)
            coming = [other for other in coming if other != key]
        if not open_:
            return heard
        for key, result in recognizer.step():
            assert key in open_, f"{key!r} ended twice, or after it was aborted"
            open_.discard(key)
            heard[key] = result
    raise AssertionError(f"nothing came of {open_}")


def hear_one(recognizer: Recognizer, samples: np.ndarray, asked: Asked | None = None) -> Hearing:
    """What is heard in one chunk alone."""
    result = hear(recognizer, {"one": (samples, asked or Asked())})["one"]
    assert isinstance(result, Hearing), result
    return result
