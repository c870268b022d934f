"""Who is read next: nobody waits for slots that are free, or behind a prompt much longer than its own."""

from typing import Any

import msgspec
import pytest

from shared.jobs import JobSpec
from tests.checkpoints import text
from tests.engines.drive import Drive, chat, spec
from tests.engines.test_generator import GREEDY, HOT, LONG, Tiny, told
from workers.engine import Engine

pytestmark = pytest.mark.models

ENDLESS = {"temperature": 0, "logit_bias": {"2": -100}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(text.build(tmp_path_factory.mktemp("tiny") / "qwen3", "qwen3"))


def steps_until_it_speaks(drive: Drive, job: JobSpec, most: int = 400) -> int:
    for step in range(most):
        if drive.outputs[job.id]:
            return step
        drive.step()
    return most


def answering(engine: Engine, *jobs: JobSpec) -> Drive:
    drive = Drive(engine)
    drive.add(*jobs)
    while len(engine._generator.rows) < len(jobs):
        drive.step()
    return drive


def test_choices_begin_in_the_slots_that_are_free(tiny: Tiny) -> None:
    engine = tiny.engine(slots=8)
    drive = answering(engine, *[chat(f"{n}?", max_tokens=200, **ENDLESS) for n in range(2)])
    several, single = chat("Well?", n=8, seed=3, **HOT), chat("Me?", **GREEDY)
    drive.add(several)
    drive.step()
    assert len(engine._generator.rows) == 8
    drive.add(single)
    assert steps_until_it_speaks(drive, single) < 20
    drive.run()

    alone = Drive(tiny.engine(slots=8))
    alone.add(several)
    assert drive.done(several).result == alone.run().done(several).result


def test_the_scores_of_a_prompt_come_before_all_its_answers(tiny: Tiny) -> None:
    from workers.engines.llm.said import PromptScores

    drive = answering(tiny.engine(slots=4), *[chat(f"{n}?", max_tokens=30, **ENDLESS) for n in range(2)])
    again: dict[str, Any] = {"prompt": "The river " * 60, "n": 3, "max_tokens": 3, "seed": 1}
    known, job = spec("completion", **again), spec("completion", echo=True, logprobs=1, **again)
    drive.add(known)
    steps_until_it_speaks(drive, known)
    drive.add(job)
    drive.run()
    assert isinstance(drive.outputs[job.id][0].payload, PromptScores)
    assert len(told(drive, job, PromptScores)) == 1
    assert all(choice["text"].startswith(again["prompt"]) for choice in drive.done(job).result["choices"])


def test_a_batch_job_gets_its_turn_among_steady_requests_for_all_slots(tiny: Tiny) -> None:
    engine = tiny.engine(slots=4)
    wide = {"n": 4, "max_tokens": 6, **ENDLESS}
    late = msgspec.structs.replace(chat("Late?", **GREEDY), lane="batch")
    drive = Drive(engine)
    drive.add(*[chat(f"{n}?", **wide) for n in range(2)], late)
    for n in range(200):
        if drive.outputs[late.id]:
            break
        if len(drive.running) < 3:
            drive.add(chat(f"{n} more?", **wide))
        drive.step()
    assert drive.outputs[late.id]


def test_a_short_prompt_does_not_wait_for_a_long_one(tiny: Tiny) -> None:
    """Where the device reads no more than a piece in the time that others may wait."""
    drive = Drive(tiny.engine(prefill_step=64, prefill_budget=64))
    long, other, short = chat(LONG, **GREEDY), chat(f"Other {LONG}", **GREEDY), chat("Hi", **GREEDY)
    drive.add(long)
    drive.step()
    drive.add(other, short)
    assert steps_until_it_speaks(drive, short) < 8
    assert not drive.outputs[long.id]
    steps_until_it_speaks(drive, long)
    assert not drive.outputs[other.id]


def test_a_step_reads_no_more_for_those_that_join(tiny: Tiny) -> None:
    from workers.engines.llm.generator import Pace
    from workers.engines.llm.options import Options

    pace = Pace(Options(prefill_step=512, prefill_budget=1024))
    assert pace.fits(500, [512]) and not pace.fits(500, [512, 512]) and pace.fits(20, [512, 512])
    assert pace.fits(100, [3000, 3000]) and not pace.fits(100, [3000, 200], overtaking=True)
    for prompts in range(1, 33):
        assert pace.piece(prompts) * prompts <= 1024
    assert not pace.fits(1, [3000] * 32)
