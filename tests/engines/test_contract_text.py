"""What every engine that generates text promises beyond one chat: choices, prompts, log-probabilities,
calls and formats. The echo engine and a real one pass the same tests."""

import json
import math

import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done
from shared.jobs import JobSpec
from tests.engines.drive import Drive, answer, chat, spec
from workers.engine import Engine

STORY = "The fox ran over the bridge and"
GREEDY = {"max_tokens": 5, "temperature": 0}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": NOTHING}} for name in ("look", "run")]
NAMED = {"type": "function", "function": {"name": "run"}}


@pytest.fixture(params=["echo", pytest.param("llm", marks=[pytest.mark.models, pytest.mark.slow])])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(f"{request.param}_engine")


def completion(prompt: object = STORY, **fields: object) -> JobSpec:
    return spec("completion", prompt=prompt, **(GREEDY | fields))


def said(engine: Engine, job: JobSpec) -> tuple[list[Delta], Done]:
    drive = Drive(engine)
    drive.add(job)
    drive.run()
    return drive.events[job.id][:-1], drive.done(job)


def texts(done: Done) -> list[str]:
    return [choice["text"] for choice in done.result["choices"]]


def of(choice: int, deltas: list[Delta]) -> list[Delta]:
    return [delta for delta in deltas if (delta.data or {}).get("choice", 0) == choice]


def scores(deltas: list[Delta]) -> list[dict]:
    return [each for delta in deltas for each in (delta.data or {}).get("logprobs", ())]


def spelled(scored: list[dict]) -> str:
    return b"".join(bytes(each["bytes"]) for each in scored).decode()


@pytest.mark.parametrize("make", [chat, completion])
def test_a_job_has_as_many_choices_as_it_asks_for(engine: Engine, make: object) -> None:
    deltas, done = said(engine, make(STORY, **GREEDY | {"n": 3}))
    for index, choice in enumerate(done.result["choices"]):
        assert "".join(delta.text for delta in of(index, deltas)) == choice["text"] != ""
        assert choice["finish_reason"] in ("stop", "length")
    assert len(set(texts(done))) == 1  # they are greedy
    assert sum(delta.tokens for delta in deltas) == done.usage["completion_tokens"]


def test_choices_cost_one_prompt(engine: Engine) -> None:
    one, three = (answer(engine, chat(STORY, n=n, **GREEDY)).usage for n in (1, 3))
    assert one["prompt_tokens"] == three["prompt_tokens"]
    assert three["completion_tokens"] == 3 * one["completion_tokens"]


def test_an_aborted_job_takes_all_its_choices_with_it(engine: Engine) -> None:
    job, drive = chat(STORY, n=3, temperature=0, max_tokens=20), Drive(engine)
    drive.add(job)
    while not drive.events[job.id]:
        drive.step()
    drive.end(job.id)
    assert engine.step() == []


def test_every_prompt_is_answered_in_its_place(engine: Engine) -> None:
    prompts = [STORY, "One, two, three, four,", "The sky"]
    together = answer(engine, completion(prompts, n=2))
    alone = [answer(engine, completion(prompt)) for prompt in prompts]
    assert texts(together) == [texts(done)[0] for done in alone for _ in range(2)]
    assert together.usage["prompt_tokens"] == sum(done.usage["prompt_tokens"] for done in alone)


def test_a_completion_ends_after_16_tokens_unless_asked_otherwise(engine: Engine) -> None:
    done = answer(engine, spec("completion", prompt="one two three four " * 5, temperature=0))
    assert done.usage["completion_tokens"] == 16
    assert done.result["choices"][0]["finish_reason"] == "length"


def test_an_echo_is_the_prompt_and_what_comes_without_it(engine: Engine) -> None:
    [plain], [echoed] = (texts(answer(engine, completion(echo=echo))) for echo in (False, True))
    assert echoed == STORY + plain


def test_a_prompt_can_be_read_without_an_answer(engine: Engine) -> None:
    deltas, done = said(engine, completion([STORY, "The sky"], echo=True, logprobs=2, max_tokens=0))
    assert [(each["text"], each["finish_reason"]) for each in done.result["choices"]] == [
        (STORY, "length"),
        ("The sky", "length"),
    ]
    assert done.usage["completion_tokens"] == 0
    for choice, text in enumerate((STORY, "The sky")):
        first, *others = scores(of(choice, deltas))
        assert (first["logprob"], first["top"]) == (None, [])
        assert all(each["logprob"] <= 0 and len(each["top"]) == 2 for each in others)
        assert spelled([first, *others]) == text


@pytest.mark.parametrize("echo", [False, True])
def test_each_token_of_a_completion_has_its_log_probability(engine: Engine, echo: bool) -> None:
    deltas, done = said(engine, completion(echo=echo, logprobs=3))
    assert spelled(scores(deltas)) == texts(done)[0]
    answered = scores(deltas)[-done.usage["completion_tokens"] :]
    assert len(answered) == len(scores(deltas)) or echo
    assert all(each["logprob"] <= 0 and len(each["top"]) == 3 for each in answered)
    for each in answered:  # greedy: the likeliest token was chosen
        assert each["top"][0]["token"] == each["token"]
        assert math.isclose(each["top"][0]["logprob"], each["logprob"], abs_tol=1e-4)


def test_each_token_of_a_chat_has_its_log_probability(engine: Engine) -> None:
    deltas, done = said(engine, chat(STORY, n=2, logprobs=True, top_logprobs=1, **GREEDY))
    for choice, text in enumerate(texts(done)):
        mine = scores(of(choice, deltas))
        assert spelled(mine) == text
        assert all(len(each["top"]) == 1 for each in mine)
    assert len(scores(deltas)) == done.usage["completion_tokens"]


def test_what_a_stop_string_cuts_off_has_no_log_probability(engine: Engine) -> None:
    [text] = texts(answer(engine, completion()))
    stop = text[len(text) // 2 :][:3]
    deltas, done = said(engine, completion(stop=stop, logprobs=0))
    cut = text[: text.index(stop)]
    assert texts(done) == [cut]
    told = scores(deltas)
    assert spelled(told).startswith(cut)
    assert len(spelled(told[:-1])) < len(cut)  # the last one may be cut in two


def test_log_probabilities_are_told_to_those_who_ask(engine: Engine) -> None:
    for job in (chat(STORY, **GREEDY), completion()):
        assert scores(said(engine, job)[0]) == []


def test_token_ids_are_a_prompt(engine: Engine) -> None:
    done = answer(engine, completion([500, 900, 500]))
    assert done.usage["prompt_tokens"] == 3
    assert len(done.result["choices"]) == 1


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(engine: Engine) -> None:
    with pytest.raises(BadRequest, match=r"8192 tokens.* \d{4,} tokens") as refused:
        engine.prepare(completion(["short", "word " * 9000]), None)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize(("choice", "finish_reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_a_call_that_must_be_made_is_made(engine: Engine, choice: object, finish_reason: str) -> None:
    job = chat("Run.", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, temperature=0)
    deltas, done = said(engine, job)
    [made] = done.result["choices"]
    [call] = made["tool_calls"]
    assert made["finish_reason"] == finish_reason and made["text"] == ""
    assert call["id"] and call["type"] == "function"
    assert call["function"]["name"] in (["run"] if choice == NAMED else ["look", "run"])
    assert json.loads(call["function"]["arguments"]) == {}
    parts = [part for delta in deltas for part in (delta.data or {}).get("tool_calls", ())]
    assert (parts[0]["id"], parts[0]["function"]["name"]) == (call["id"], call["function"]["name"])
    assert "".join(part["function"]["arguments"] for part in parts) == call["function"]["arguments"]
    assert sum(delta.tokens for delta in deltas) == done.usage["completion_tokens"]


def test_a_schema_is_kept_to(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    script = {"text": '{"a": 1}'}  # an engine without a model needs to be told
    done = answer(engine, chat("Answer.", response_format=format, echo=script, temperature=0))
    assert json.loads(texts(done)[0]) == {"a": 1}
