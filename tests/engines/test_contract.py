"""What every chat engine promises: the echo engine and a real one pass the same tests."""

import msgspec
import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done
from tests.engines.conftest import SLOTS
from tests.engines.drive import Drive, answer, chat
from workers.engine import Engine
from workers.engines.echo.script import Fault

STORY = "Tell me a story of a fox and a river, and a bridge."
LONG = {"max_tokens": 10, "temperature": 0}
SEVERAL = 4


@pytest.fixture(params=["echo", pytest.param("llm", marks=pytest.mark.models)])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(f"{request.param}_engine")


def test_is_an_engine_that_says_nothing_before_it_is_asked(engine: Engine) -> None:
    assert isinstance(engine, Engine)
    assert engine.slots == SLOTS
    assert engine.step() == []


def test_a_job_ends_with_one_done_that_has_the_text_of_its_deltas(engine: Engine) -> None:
    job, drive = chat(STORY, **LONG), Drive(engine)

    drive.add(job)
    drive.run()

    assert [type(event) for event in drive.events[job.id]].count(Done) == 1
    assert drive.text(job) == drive.done(job).result["choices"][0]["text"] != ""
    assert engine.step() == []


def test_many_at_once_all_answer(engine: Engine) -> None:
    jobs, drive = [chat(f"{STORY} {n}", **LONG) for n in range(SEVERAL)], Drive(engine)

    drive.add(*jobs)
    drive.run()

    assert all(drive.text(job) == drive.done(job).result["choices"][0]["text"] != "" for job in jobs)


def test_a_full_engine_has_no_room_until_a_job_ends(engine: Engine) -> None:
    jobs, drive = [chat("Hi", max_tokens=1, temperature=0) for _ in range(SLOTS)], Drive(engine)
    next_one = engine.prepare(chat(STORY), None)

    drive.add(*jobs)
    assert not engine.has_room(next_one)

    drive.run()
    assert engine.has_room(next_one)


def test_a_job_that_joins_in_the_middle_speaks_before_the_others_end(engine: Engine) -> None:
    early, late, drive = chat(STORY, **LONG), chat(STORY, **LONG), Drive(engine)

    drive.add(early)
    while not drive.events[early.id]:
        drive.step()
    drive.add(late)
    while not drive.events[late.id]:
        drive.step()

    assert early.id in drive.running
    drive.run()
    assert drive.done(early).result == drive.done(late).result


def test_an_aborted_job_says_nothing_more_and_the_others_go_on(engine: Engine) -> None:
    jobs, drive = [chat(STORY, **LONG) for _ in range(SEVERAL)], Drive(engine)
    drive.add(*jobs)
    while not drive.events[jobs[0].id]:
        drive.step()

    said = len(drive.outputs[jobs[0].id])
    drive.end(jobs[0].id)
    drive.run()

    assert len(drive.outputs[jobs[0].id]) == said
    assert all(drive.done(job) for job in jobs[1:])


def test_an_aborted_job_frees_its_slot(engine: Engine) -> None:
    jobs, drive = [chat("Hi, you.", **LONG) for _ in range(SLOTS)], Drive(engine)
    drive.add(*jobs)
    drive.step()

    drive.end(jobs[0].id)

    assert engine.has_room(engine.prepare(chat("Hi"), None))
    for job in jobs[1:]:
        drive.end(job.id)
    assert engine.step() == []


def test_a_job_that_is_aborted_before_its_first_step_costs_none(engine: Engine) -> None:
    job, drive = chat(STORY, **LONG), Drive(engine)
    drive.add(job)
    drive.end(job.id)
    assert engine.step() == []


def test_aborting_a_job_that_is_not_known_is_nothing(engine: Engine) -> None:
    engine.abort("job-of-yesterday")
    engine.forget("job-of-yesterday")
    assert engine.render("job-of-yesterday", []) == []


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(engine: Engine) -> None:
    with pytest.raises(BadRequest, match=r"8192 tokens.* \d{4,} tokens") as refused:
        engine.prepare(chat("word " * 9000), None)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")


def test_max_tokens_ends_an_answer_with_length(engine: Engine) -> None:
    done = answer(engine, chat(STORY, max_tokens=3, temperature=0))
    assert done.result["choices"][0]["finish_reason"] == "length"
    assert done.usage["completion_tokens"] == 3


def test_max_completion_tokens_counts_before_max_tokens(engine: Engine) -> None:
    done = answer(engine, chat(STORY, max_completion_tokens=2, max_tokens=5, temperature=0))
    assert done.usage["completion_tokens"] == 2


def test_a_stop_string_across_token_borders_is_cut_out(engine: Engine) -> None:
    text = answer(engine, chat(STORY, **LONG)).result["choices"][0]["text"]
    space = text.index(" ", len(text) // 2)
    stop = text[space - 2 : space + 2]
    job, drive = chat(STORY, stop=[stop, "not said"], **LONG), Drive(engine)

    drive.add(job)
    drive.run()

    assert drive.done(job).result["choices"] == [{"text": text[: text.index(stop)], "finish_reason": "stop"}]
    assert drive.text(job) == text[: text.index(stop)]


def test_usage_adds_up(engine: Engine) -> None:
    short = answer(engine, chat("Hi.", **LONG)).usage
    longer = answer(engine, chat(STORY, **LONG)).usage
    assert all(u["prompt_tokens"] + u["completion_tokens"] == u["total_tokens"] for u in (short, longer))
    assert short["prompt_tokens"] < longer["prompt_tokens"]


def test_the_tokens_of_the_deltas_are_those_of_the_usage(engine: Engine) -> None:
    job, drive = chat(STORY, **LONG), Drive(engine)
    drive.add(job)
    drive.run()
    tokens = sum(event.tokens for event in drive.events[job.id] if isinstance(event, Delta))
    assert tokens == drive.done(job).usage["completion_tokens"]


def test_parts_of_a_message_are_one_text(engine: Engine) -> None:
    parts = [{"type": "text", "text": "Tell me a story"}, {"type": "text", "text": "about a fox."}]
    done = answer(engine, chat(messages=[{"role": "user", "content": parts}], **LONG))
    assert done.result["choices"][0]["text"]


def test_rendering_in_one_go_says_what_rendering_one_by_one_says(engine: Engine) -> None:
    text = answer(engine, chat(STORY, **LONG)).result["choices"][0]["text"]
    for stop in (None, text[len(text) // 2 :][:5]):
        job, drive = chat(STORY, stop=stop, **LONG), Drive(engine)
        drive.add(job)
        drive.run()
        twin = engine.prepare(msgspec.structs.replace(job, id=f"{job.id}-twin"), None)
        engine.add(twin)
        engine.abort(twin.spec.id)

        events = engine.render(twin.spec.id, drive.outputs[job.id])
        engine.forget(twin.spec.id)

        assert "".join(event.text for event in events[:-1]) == drive.text(job)
        assert events[-1] == drive.done(job)
        assert len(events) <= 2


def test_a_job_that_cannot_be_run_does_not_disturb_the_rest(engine: Engine) -> None:
    alone = answer(engine, chat(STORY, **LONG))
    good, bad, drive = chat(STORY, **LONG), chat(STORY, echo={"raise_in": "add"}, **LONG), Drive(engine)
    drive.add(good)
    prepared = engine.prepare(bad, None)
    for sequence in getattr(prepared.work, "sequences", ()):
        sequence.tokens = []  # nothing that a client can send breaks a real model's row

    with pytest.raises((ValueError, Fault)):
        engine.add(prepared)
    drive.run()

    assert not drive.errors
    assert drive.done(good) == alone
