"""What the echo engine can be made to say: choices, prompts, reasoning, calls, log-probabilities."""

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done, decode, encode
from shared.jobs import JobSpec
from shared.tasks import chat as chats
from shared.tasks import completion as completions
from tests.engines.drive import Drive, answer, chat, spec
from tests.shared import shapes
from workers.engine import Engine

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")
]
NAMED = {"type": "function", "function": {"name": "g"}}
CALL = {"call": {"name": "g", "arguments": {"city": "Köln", "days": 3}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}


def completion(prompt: object = "one two", **fields: object) -> JobSpec:
    if script := fields.pop("echo_script", None):
        fields["metadata"] = {"echo": json.dumps(script)}
    return spec("completion", prompt=prompt, **fields)


def choices(done: Done) -> list[tuple[str, str]]:
    return [(choice["text"], choice["finish_reason"]) for choice in done.result["choices"]]


def streamed(engine: Engine, job: JobSpec) -> tuple[list[Delta], Done]:
    drive = Drive(engine)
    drive.add(job)
    drive.run()
    return drive.events[job.id][:-1], drive.done(job)


def both_ways(
    engine: Engine, job: JobSpec, task: ModuleType, whole: Callable, chunk: Callable
) -> list[tuple[Any, list[Any]]]:
    """The choices of a job's whole answer, each with what the streamed one's chunks have of it."""
    deltas, done = streamed(engine, job)
    assert task.validate(job.params)
    answer = whole(task.body(job, [delta for delta in deltas if delta.data], done))
    stream = task.Stream(job)
    frames = [frame for delta in deltas for frame in stream.delta(delta)] + stream.done(done)
    pieces = [each for frame in frames for each in chunk(frame).choices]
    return [(choice, [each for each in pieces if each.index == choice.index]) for choice in answer.choices]


def scored(deltas: list[Delta], choice: int = 0) -> list[dict]:
    mine = [delta.data for delta in deltas if delta.data and delta.data.get("choice", 0) == choice]
    return [each for data in mine for each in data.get("logprobs", ())]


def test_a_completion_goes_on_behind_its_prompt(echo_engine: Engine) -> None:
    assert choices(answer(echo_engine, completion("one  two "))) == [(" one  two", "stop")]
    assert choices(answer(echo_engine, completion("one  two ", echo=True))) == [
        ("one  two  one  two", "stop")
    ]


def test_every_prompt_gets_its_choices_in_order(echo_engine: Engine) -> None:
    for prompts in (["a b", "7 8 9", "c"], [[3, 4], [7, 8, 9], [5]]):
        done = answer(echo_engine, completion(prompts, n=2, max_tokens=2))
        first, last = (" a b", " c") if prompts[0] == "a b" else (" 3 4", " 5")
        assert choices(done) == [(first, "stop")] * 2 + [(" 7 8", "length")] * 2 + [(last, "stop")] * 2
        assert done.usage["prompt_tokens"] == 2 + 3 + 1
        assert done.usage["completion_tokens"] == 10


def test_a_prompt_that_is_only_read_is_said_again(echo_engine: Engine) -> None:
    job = completion(["one two", ""], echo=True, logprobs=1, max_tokens=0)
    deltas, done = streamed(echo_engine, job)
    assert choices(done) == [("one two", "length"), ("", "stop")]
    assert done.usage["completion_tokens"] == 0
    assert [each["logprob"] for each in scored(deltas)] == [None, 0.0]


def test_a_stop_string_ends_its_choice_alone(echo_engine: Engine) -> None:
    done = answer(echo_engine, completion(["a b c", "d e f"], stop=" b"))
    assert choices(done) == [(" a", "stop"), (" d e f", "stop")]


def test_a_stop_string_does_not_cut_the_echo(echo_engine: Engine) -> None:
    assert choices(answer(echo_engine, completion("a b", echo=True, stop="b"))) == [("a b a ", "stop")]


def test_the_script_of_a_completion_is_in_its_metadata(echo_engine: Engine) -> None:
    done = answer(echo_engine, completion("a", echo_script={"text": "x y\n", "tokens": 2}))
    assert choices(done) == [("x y", "stop")]


def test_a_prompt_beyond_the_context_is_refused_where_it_is(echo_engine: Engine) -> None:
    with pytest.raises(BadRequest, match=r"8192 tokens.*prompt has 9000 tokens") as refused:
        echo_engine.prepare(completion(["a", "word " * 8999 + "end"]), None)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


def test_log_probabilities_come_with_as_many_likely_tokens_as_are_asked_for(echo_engine: Engine) -> None:
    for top in (0, 3, 20):
        deltas, _ = streamed(echo_engine, chat("of the", logprobs=True, top_logprobs=top))
        for each in scored(deltas):
            assert each["logprob"] == 0.0 and bytes(each["bytes"]).decode() == each["token"]
            assert len({likely["token"] for likely in each["top"]}) == top
            assert not top or each["top"][0]["token"] == each["token"]
        assert "".join(each["token"] for each in scored(deltas)) == "of the"


def test_without_the_wish_there_are_no_log_probabilities(echo_engine: Engine) -> None:
    for job in (chat("a b"), completion("a b")):
        deltas, _ = streamed(echo_engine, job)
        assert not any(delta.data for delta in deltas)


def test_a_script_thinks_before_it_speaks(echo_engine: Engine) -> None:
    deltas, done = streamed(echo_engine, chat("a", echo={"think": "well now"}))
    assert [(delta.text, delta.data) for delta in deltas] == [
        ("", {"reasoning": "well"}),
        ("", {"reasoning": " now"}),
        ("a", None),
    ]
    assert done.result["choices"] == [{"text": "a", "finish_reason": "stop", "reasoning": "well now"}]
    assert done.usage["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert done.usage["completion_tokens"] == 3


def test_reasoning_can_be_switched_off(echo_engine: Engine) -> None:
    done = answer(echo_engine, chat("a", echo={"think": "well"}, reasoning_effort="none"))
    assert done.result["choices"] == [{"text": "a", "finish_reason": "stop"}]


def test_a_scripted_call_grows_and_is_whole_at_the_end(echo_engine: Engine) -> None:
    deltas, done = streamed(echo_engine, chat("a", tools=TOOLS, echo=CALL))
    [call] = done.result["choices"][0]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "g")
    assert json.loads(call["function"]["arguments"]) == CALL["call"]["arguments"]
    assert choices(done) == [("", "tool_calls")]
    parts = [part for delta in deltas for part in delta.data["tool_calls"]]
    assert len(parts) > 3 and parts[0]["id"] == call["id"]
    assert "".join(part["function"]["arguments"] for part in parts) == call["function"]["arguments"]


def test_a_call_needs_tools_and_leave(echo_engine: Engine) -> None:
    for fields in ({}, {"tools": []}, {"tools": TOOLS, "tool_choice": "none"}):
        assert choices(answer(echo_engine, chat("a", echo=CALL, **fields))) == [("a", "stop")]


@pytest.mark.parametrize(
    ("fields", "called", "finish_reason"),
    [
        ({"tool_choice": "required"}, [("f", {})], "tool_calls"),
        ({"tool_choice": NAMED}, [("g", {})], "stop"),
        ({"tool_choice": NAMED, "echo": {"call": {"arguments": {"a": 1}}}}, [("g", {"a": 1})], "stop"),
        (
            {"echo": {"call": [{"arguments": '{"b": 2}'}, {"name": "g"}]}},
            [("f", {"b": 2}), ("g", {})],
            "tool_calls",
        ),
        ({"echo": {"call": [{}, {}]}, "parallel_tool_calls": False}, [("f", {})], "tool_calls"),
        ({"tool_choice": "required", "max_tokens": 1}, [("f", None)], "length"),
    ],
)
def test_a_call_that_must_be_made_is_made(
    echo_engine: Engine, fields: dict, called: list, finish_reason: str
) -> None:
    [choice] = answer(echo_engine, chat("a", tools=TOOLS, **fields)).result["choices"]
    made = [(call["function"]["name"], call["function"]["arguments"]) for call in choice["tool_calls"]]
    assert [(name, json.loads(text) if text else None) for name, text in made] == called
    assert choice["finish_reason"] == finish_reason


def test_text_may_stand_before_a_call(echo_engine: Engine) -> None:
    done = answer(echo_engine, chat("a", tools=TOOLS, echo=CALL | {"text": "So: "}))
    assert choices(done) == [("So: ", "tool_calls")]


def test_the_calls_of_all_choices_have_ids_of_their_own(echo_engine: Engine) -> None:
    script = {"call": [{}, {"name": "g"}]}
    done = answer(echo_engine, chat("a", tools=TOOLS, n=3, echo=script))
    ids = [call["id"] for choice in done.result["choices"] for call in choice["tool_calls"]]
    assert len(set(ids)) == 6


def test_a_script_cannot_call_what_is_no_tool(echo_engine: Engine) -> None:
    with pytest.raises(BadRequest) as refused:
        echo_engine.prepare(chat("a", tools=TOOLS, echo={"call": {"name": "h"}}), None)
    assert refused.value.param == "metadata"


@pytest.mark.parametrize("format", [{"type": "json_object"}, SCHEMA])
@pytest.mark.parametrize("make", [chat, completion])
def test_a_format_needs_a_script_that_has_it(echo_engine: Engine, make: object, format: dict) -> None:
    with pytest.raises(BadRequest) as refused:
        echo_engine.prepare(make("a", response_format=format), None)
    assert (refused.value.code, refused.value.param) == ("unsupported_value", "response_format.type")
    script = {"echo" if make is chat else "echo_script": {"text": '{"a": 1}'}}
    assert choices(answer(echo_engine, make("a", response_format=format, **script))) == [('{"a": 1}', "stop")]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3},
        {"logprobs": True, "top_logprobs": 2, "n": 2},
        {"tools": TOOLS, "tool_choice": "required", "echo": {"think": "hm hm", "call": [{}, {}]}},
        {"stop": "one", "stream": True, "stream_options": {"include_usage": True}},
    ],
)
def test_a_chat_has_openai_s_shapes_whole_and_streamed(echo_engine: Engine, fields: dict) -> None:
    job = chat("two one two", **fields)
    for choice, mine in both_ways(echo_engine, job, chats, shapes.chat, shapes.chat_chunk):
        assert "".join(each.delta.content or "" for each in mine) == (choice.message.content or "")
        told = [one for each in mine if each.logprobs for one in each.logprobs.content]
        assert told == (choice.logprobs.content if choice.logprobs else [])
        assert mine[-1].finish_reason == choice.finish_reason


@pytest.mark.parametrize(
    "fields", [{}, {"n": 2}, {"prompt": ["é b", "c"], "logprobs": 2, "echo": True}, {"stop": "two"}]
)
def test_a_completion_has_openai_s_shapes_whole_and_streamed(echo_engine: Engine, fields: dict) -> None:
    job = completion(**fields)
    for choice, mine in both_ways(echo_engine, job, completions, shapes.completion, shapes.completion):
        assert "".join(each.text for each in mine) == choice.text
        if choice.logprobs:
            places = [place for each in mine if each.logprobs for place in each.logprobs.text_offset]
            assert places == choice.logprobs.text_offset
            ends = [*places[1:], len(choice.text)]
            cut = [choice.text[at:end] for at, end in zip(places, ends, strict=True)]
            assert cut == choice.logprobs.tokens


def test_an_answer_survives_the_queue_and_the_stream(echo_engine: Engine) -> None:
    job = chat("a", tools=TOOLS, echo=CALL | {"think": "hm"}, logprobs=True)
    again = msgspec.json.decode(msgspec.json.encode(job), type=JobSpec)
    deltas, done = streamed(echo_engine, again)
    assert [decode(encode(event)) for event in (*deltas, done)] == [*deltas, done]
