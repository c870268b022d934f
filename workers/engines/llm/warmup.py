"""The first use of a shape compiles its kernels: do that at load, not in somebody's request."""

import time

import msgspec

from shared.jobs import JobSpec
from shared.tasks.chat import Message, Request
from workers.engine import Engine

SECONDS = 4.0  # then whoever waits for the model has waited long enough
WORD = " word"


def warm_up(engine: Engine, prompt_words: int, seconds: float = SECONDS) -> None:
    """Answer one chat of `prompt_words`, then 1, 2, 4, … slots short ones, while there is time left.

    Raises what a step raised: a model that cannot answer now cannot answer at all.
    """
    end = time.monotonic() + seconds
    for word in (" first", " second"):  # one compiles, the other shows how fast prompts are read
        _answer(engine, 1, prompt_words, word)
    rows = 1
    while time.monotonic() < end:
        _answer(engine, rows, 1)
        if rows == engine.slots:
            return
        rows = min(rows * 2, engine.slots)


def _answer(engine: Engine, rows: int, words: int, word: str = WORD) -> None:
    running = {f"warm-up-{row}" for row in range(rows)}
    for row, job_id in enumerate(sorted(running)):
        engine.add(engine.prepare(_spec(job_id, word * words, temperature=float(row % 2)), None))
    while running:
        for job_id, output in engine.step():
            if output.error:
                raise output.error
            if output.last:
                engine.forget(job_id)
                running.discard(job_id)


def _spec(job_id: str, content: str, temperature: float) -> JobSpec:
    request = Request(
        model="warm-up",
        messages=[Message(role="user", content=content)],
        temperature=temperature,
        max_tokens=4,
    )
    params = msgspec.to_builtins(request)
    return JobSpec(id=job_id, task="chat", model="warm-up", params=params, created=0, timeout=60)
