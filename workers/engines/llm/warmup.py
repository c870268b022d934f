"""The first use of a shape compiles its kernels: do that at load, not in somebody's request."""

import time

import msgspec

from shared.jobs import JobSpec
from shared.tasks.completion import Request
from workers.engine import Engine

SECONDS = 4.0  # then whoever waits for the model has waited long enough
ANSWER, PROMPT = 4, 16  # tokens
FIRST, SECOND, SHORT = 1, 2, 3  # tokens that every model has: a base model has no template for a chat


def warm_up(engine: Engine, prompt_tokens: int, context_length: int, seconds: float = SECONDS) -> None:
    """Continue two prompts of `prompt_tokens`, then 1, 2, 4, … slots short ones, while there is time left.

    Raises what a step raised: a model that cannot answer now cannot answer at all.
    """
    end = time.monotonic() + seconds
    length = max(1, min(prompt_tokens, context_length - ANSWER))
    for token in (FIRST, SECOND):  # one compiles, the other shows how fast prompts are read
        _answer(engine, 1, [token] * length)
    rows = 1
    while time.monotonic() < end:
        _answer(engine, rows, [SHORT] * min(PROMPT, length))
        if rows == engine.slots:
            return
        rows = min(rows * 2, engine.slots)


def _answer(engine: Engine, rows: int, prompt: list[int]) -> None:
    running = {f"warm-up-{row}" for row in range(rows)}
    for row, job_id in enumerate(sorted(running)):
        engine.add(engine.prepare(_spec(job_id, prompt, temperature=float(row % 2)), None))
    while running:
        for job_id, output in engine.step():
            if output.error:
                raise output.error
            if output.last:
                engine.forget(job_id)
                running.discard(job_id)


def _spec(job_id: str, prompt: list[int], temperature: float) -> JobSpec:
    request = Request(model="warm-up", prompt=prompt, temperature=temperature, max_tokens=ANSWER)
    params = msgspec.to_builtins(request)
    return JobSpec(id=job_id, task="completion", model="warm-up", params=params, created=0, timeout=60)
