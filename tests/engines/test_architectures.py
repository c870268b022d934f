"""Models of many architectures say in a batch, and with a cached prefix, what mlx-lm says of each alone.

Tiny random models in float32, token by token; between them they have every kind of cache there is: plain,
sliding, latent, convolutional, state space, delta rule, and mixtures.
"""

from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shared.jobs import JobSpec
from tests.checkpoints import text
from tests.engines.conftest import SLOTS
from tests.engines.drive import Drive, chat
from workers.engine import Engine

pytestmark = pytest.mark.models

ARCHITECTURES = (
    "llama",
    "qwen3",
    "minicpm",
    "gemma3_text",  # sliding windows of 32 tokens, and whole attention
    "gpt_oss",  # the same with sinks, and experts
    "deepseek_v3",  # latent attention, experts
    "qwen3_5",  # gated delta rule and attention
    "granitemoehybrid",  # Mamba-2 or attention, experts
    "falcon_h1",  # Mamba-2 and attention in one layer
    "lfm2",  # short convolutions and attention
    "mamba2",
    "nemotron_h",  # Mamba-2, feed-forward and attention in turn; in mlx-lm 0.32.2 padding wipes its state
)
LONG = (
    "You are a patient guide who knows the river, the fox, the bridge and the hill behind the mill. Answer "
    "slowly, name what you see, and never promise a bridge that is not there."
)
SHORT = "Be kind."
WORDS = "A fox came to the river at dusk and asked whether the bridge would hold until the morning".split()
STEP = 16  # tokens that are read of a prompt at once
NO_TIE = 1e-4  # between the best token and the next: far more than rounding


class Answer(NamedTuple):
    tokens: list[int]
    margin: float  # by how much the log-probability of the best token won, at least


class Model:
    """A loaded checkpoint, and what mlx-lm says with it."""

    def __init__(self, folder: Path) -> None:
        from workers.engines import llm

        self.model, self.tokenizer, _ = llm.load_model(folder)
        self._told: dict[tuple[int, ...], Answer] = {}

    def engine(self, **options: Any) -> Engine:
        from workers.engines import llm
        from workers.engines.llm.sampling import Defaults

        return llm.LlmEngine(
            self.model,
            self.tokenizer,
            slots=SLOTS,
            context_length=1024,
            vocabulary=len(self.tokenizer),
            defaults=Defaults(),
            options=llm.Options(prefill_step=STEP, prefill_budget=SLOTS * STEP, **options),
        )

    def prompt(self, job: JobSpec) -> list[int]:
        return self.tokenizer.apply_chat_template(job.params["messages"], add_generation_prompt=True)

    def answer(self, job: JobSpec) -> list[int]:
        return self.told(self.prompt(job), job.params["max_tokens"]).tokens

    def told(self, prompt: list[int], max_tokens: int) -> Answer:
        key = (*prompt, -max_tokens)
        if key not in self._told:
            self._told[key] = self._tell(prompt, max_tokens)
        return self._told[key]

    def _tell(self, prompt: list[int], max_tokens: int) -> Answer:
        """By mlx-lm's own loop: one prompt, read in one piece."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        steps = list(generate_step(mx.array(prompt), self.model, max_tokens=max_tokens))
        ends = self.tokenizer.eos_token_ids
        tokens = list(takewhile(lambda token: token not in ends, (int(token) for token, _ in steps)))
        best = mx.sort(mx.stack([logprobs for _, logprobs in steps]), axis=-1)
        return Answer(tokens, mx.min(best[:, -1] - best[:, -2]).item())


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(text.build(tmp_path_factory.mktemp("models") / request.param, request.param))


def asks(n: int, max_tokens: int, *, system: str = SHORT, more: tuple[dict[str, str], ...] = ()) -> JobSpec:
    """A chat whose question has `n` words."""
    question = " ".join((WORDS * 4)[n % 7 : n % 7 + n])
    turns = [{"role": "system", "content": system}, {"role": "user", "content": question}, *more]
    return chat(messages=turns, temperature=0, max_tokens=max_tokens)


def several() -> list[JobSpec]:
    """Ten jobs with prompts of 40 to 260 tokens, whose answers end at different times."""
    short = [asks(n, tokens) for n, tokens in ((1, 26), (3, 18), (9, 22), (30, 16), (2, 24))]
    long = [asks(n, tokens, system=LONG) for n, tokens in ((1, 14), (5, 20), (17, 12), (4, 9), (2, 7))]
    return [job for pair in zip(short, long, strict=True) for job in pair]


def said(drive: Drive, job: JobSpec) -> list[int]:
    from workers.engines.llm.said import Token

    tokens = [output.payload for output in drive.outputs[job.id] if isinstance(output.payload, Token)]
    return [token.id for token in tokens if token.finish_reason != "stop"]


def test_its_answers_tell_prompts_apart(model: Model) -> None:
    """Else the rest would prove nothing."""
    answers = [model.told(model.prompt(job), job.params["max_tokens"]) for job in several()]
    assert len({tuple(answer.tokens[:7]) for answer in answers}) == len(answers)
    assert all(len(set(answer.tokens)) > len(answer.tokens) / 2 for answer in answers)
    assert min(answer.margin for answer in answers) > NO_TIE

    prompt = model.prompt(asks(5, 1, system=LONG))
    other = [*prompt[:8], prompt[8] + 1, *prompt[9:]]
    assert len(prompt) > 100
    assert model.told(prompt, 12).tokens != model.told(other, 12).tokens


def test_alone_it_says_what_mlx_lm_says(model: Model) -> None:
    engine = model.engine(prompt_cache_mb=-1)
    for job in several():
        drive = Drive(engine)
        drive.add(job)
        assert said(drive.run(), job) == model.answer(job)


def test_eight_at_once_that_join_and_leave_say_what_each_says_alone(model: Model) -> None:
    jobs, drive = several(), Drive(model.engine(prompt_cache_mb=-1))
    for first in range(0, SLOTS, 2):
        drive.add(*jobs[first : first + 2])
        drive.step()
        drive.step()
    assert len(drive.running) == SLOTS
    read, unread = jobs[0], jobs[6]
    assert drive.outputs[read.id] and not drive.outputs[unread.id]

    drive.end(read.id)
    drive.end(unread.id)
    drive.step()
    drive.add(*jobs[SLOTS:])
    drive.run()

    assert not drive.errors
    for job in jobs:
        alone, heard = model.answer(job), said(drive, job)
        assert heard == (alone[: len(heard)] if job in (read, unread) else alone)


def test_with_a_cached_prefix_it_says_what_it_says_without(model: Model) -> None:
    engine, first = model.engine(prompt_cache_mb=64), asks(3, 5, system=LONG)
    drive = Drive(engine)
    drive.add(first)
    drive.run()
    turns = ({"role": "assistant", "content": "It will."}, {"role": "user", "content": "Who built it?"})
    again = asks(3, 12, system=LONG, more=turns)
    jobs = [again, asks(3, 11, system=LONG), *several()[2:]]

    drive.add(*jobs[:5])
    drive.step()
    drive.add(*jobs[5:SLOTS])
    drive.run()

    assert [said(drive, job) for job in jobs[:SLOTS]] == [model.answer(job) for job in jobs[:SLOTS]]
    for job in [first, *jobs[:SLOTS]]:
        cached = drive.done(job).usage["prompt_tokens_details"]["cached_tokens"]
        shares = job is not first and job.params["messages"][0]["content"] == LONG
        assert cached >= 100 if shares else cached < 100
        assert job is not again or cached >= len(model.prompt(first)) - 1
