"""What the generator is asked for: a prompt, and the choices that continue it."""

import msgspec

from shared.jobs import Lane
from workers.engines.llm.constraint import Constraint
from workers.engines.llm.sampling import Sampling


class Sample(msgspec.Struct):
    """One choice: `choice` is its index in the job's answer."""

    choice: int
    sampling: Sampling
    constraint: Constraint | None = None


class Sequence(msgspec.Struct):
    """A prompt that is read once, and then continued by every sample.

    `max_tokens` is the limit of each; 0 only reads the prompt. `top` is how many likely tokens are told
    with each token, None tells no log-probabilities; `score_prompt` tells those of the prompt too.
    `again`: the prompt is that of an earlier sequence of the job, which has more choices than slots.
    `boundaries` are the lengths at which other prompts may part from this one, ascending.
    """

    job_id: str
    prompt: int
    tokens: list[int]
    samples: list[Sample]
    max_tokens: int
    top: int | None = None
    score_prompt: bool = False
    again: bool = False
    boundaries: list[int] = []
    lane: Lane = "interactive"
