"""Chats: which 400 names what, and the shapes of the answer."""

import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.tasks import chat
from tests.shared import shapes

GOOD = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
NAMED = {"type": "function", "function": {"name": "f"}}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def spec(**params: object) -> JobSpec:
    params = {"model": "m", "messages": []} | params
    return JobSpec(id="job-1", task="chat", model="m", params=params, created=1.5, timeout=1.0)


def refusal(**fields: object) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        chat.validate(GOOD | fields)
    return caught.value


def tool(**function: object) -> dict:
    return {"type": "function", "function": {"name": "f"} | function}


def scored(token: str, logprob: float | None = -0.5, top: tuple[str, ...] = ()) -> dict:
    likely = [{"token": each, "bytes": [*each.encode()], "logprob": -1.0} for each in top]
    return {"token": token, "bytes": [*token.encode()], "logprob": logprob, "top": likely}


def choice(text: str, finish_reason: str = "stop", **more: object) -> dict:
    return {"text": text, "finish_reason": finish_reason} | more


# --- what is accepted


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, ".content"),
        ({"role": "user", "content": None}, ".content"),
        ({"role": "tool", "content": None, "tool_call_id": "c1"}, ".content"),
        ({"role": "system", "content": 7}, ".content"),
        ({"role": "wizard", "content": "x"}, ".role"),
        ({"role": "function", "content": "x", "name": "f"}, ".role"),
        ({"role": "user", "content": "x", "name": 7}, ".name"),
        ({"role": "user", "content": ["x"]}, ".content[0]"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, ".tool_calls"),
        ({"role": "user", "content": "x", "tool_call_id": "c1"}, ".tool_call_id"),
        ({"role": "user", "content": "x", "reasoning_content": "hm"}, ".reasoning_content"),
        ({"role": "assistant", "tool_calls": CALL}, ".tool_calls"),
        ({"role": "assistant", "tool_calls": [CALL | {"id": ""}]}, ".tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [CALL, CALL | {"id": 3}]}, ".tool_calls[1].id"),
        ({"role": "assistant", "tool_calls": [CALL | {"function": {"name": "", "arguments": ""}}]},
         ".tool_calls[0].function.name"),
        ({"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": {}}}]},
         ".tool_calls[0].function.arguments"),
    ],
)
def test_a_bad_message_is_a_400_that_names_the_field(message: dict, param: str) -> None:
    error = refusal(messages=[*GOOD["messages"], message])
    assert (error.status, error.code, error.param) == (400, "invalid_value", f"messages[1]{param}")
    assert f"messages[1]{param}" in error.message


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, ".role"),
        ({"role": "tool", "content": "x"}, ".tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": ""}, ".tool_call_id"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content[0].text"),
        ({"role": "user", "content": [{"text": "x"}]}, ".content[0].type"),
        ({"role": "assistant", "tool_calls": [{"type": "function", "id": "c"}]}, ".tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "function": CALL["function"]}]},
         ".tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f"}}]},
         ".tool_calls[0].function.arguments"),
    ],
)
def test_what_a_message_lacks_is_named(message: dict, param: str) -> None:
    error = refusal(messages=[message])
    assert (error.param, error.code) == (f"messages[0]{param}", "missing_required_parameter")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
         ".content[0].type"),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, ".content[0].type"),
        ({"role": "assistant", "refusal": "no"}, ".refusal"),
        ({"role": "assistant", "audio": {"id": "a"}}, ".audio"),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": ""}}, ".function_call"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {}}]},
         ".tool_calls[0].type"),
    ],
)
def test_a_part_of_a_message_that_is_not_served_is_refused_by_name(message: dict, param: str) -> None:
    error = refusal(messages=[message])
    assert (error.param, error.code) == (f"messages[0]{param}", "unsupported_value")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": ""}], "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": "x", "reasoning_content": "hm", "tool_calls": None},
        {"role": "assistant", "content": "x", "refusal": None, "audio": None, "function_call": None},
        {"role": "assistant", "tool_calls": []},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
    ],
)
def test_messages_as_clients_send_them_back_are_accepted(message: dict) -> None:
    assert chat.validate(GOOD | {"messages": [message]}).messages[0].role == message["role"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"safety_identifier": 1}, "safety_identifier"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [tool(name="a b")]}, "tools[0].function.name"),
        ({"tools": [tool(name="")]}, "tools[0].function.name"),
        ({"tools": [tool(name="f" * 65)]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [tool(description=1)]}, "tools[0].function.description"),
        ({"tools": [tool(strict="yes")]}, "tools[0].function.strict"),
        ({"tools": [tool(parameters="{}")]}, "tools[0].function.parameters"),
        ({"tools": [tool(parameters={"type": "array"})]}, "tools[0].function.parameters.type"),
        ({"tools": [tool(parameters={"type": None})]}, "tools[0].function.parameters.type"),
        ({"tools": [tool(name=f"f{n}") for n in range(129)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": NAMED}, "tool_choice"),
        ({"tool_choice": "maybe", "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [TOOL]},
         "tool_choice.function.name"),
        ({"tool_choice": "required", "tools": [TOOL], "response_format": {"type": "json_object"}},
         "response_format"),
        ({"tool_choice": NAMED, "tools": [TOOL], "response_format": {
            "type": "grammar", "grammar": {"syntax": "regex", "definition": "a"}}}, "response_format"),
    ],
)
def test_a_bad_value_is_a_400_that_names_the_field(fields: dict, param: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    assert param.partition("[")[0].partition(".")[0] in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "f"}}}, "tool_choice.type"),
    ],
)
def test_what_a_tool_lacks_is_named(fields: dict, param: str) -> None:
    error = refusal(**fields)
    assert (error.param, error.code) == (param, "missing_required_parameter")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL, {"type": "custom", "custom": {"name": "c"}}]}, "tools[1].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "c"}}}, "tool_choice.type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"verbosity": "low"}, "verbosity"),
        ({"moderation": {"model": "omni"}}, "moderation"),
        ({"prompt_cache_options": {"mode": "explicit"}}, "prompt_cache_options"),
    ],
)
def test_what_is_not_served_is_refused_by_name(fields: dict, param: str) -> None:
    error = refusal(**fields)
    assert (error.param, error.code) == (param, "unsupported_value")


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [TOOL], "tool_choice": NAMED, "parallel_tool_calls": False},
        {"tools": [TOOL], "tool_choice": "auto", "response_format": {"type": "json_object"}},
        {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "text"}},
        {"tools": [tool(description=None, parameters=None, strict=None)]},
        {"tools": [tool(parameters={}), tool(name="g", parameters={"$ref": "#/$defs/A", "$defs": {}})]},
        {"tools": [tool(name=f"f-{n}_") for n in range(128)]},
        {"logprobs": True, "top_logprobs": 20},
        {"logprobs": False, "top_logprobs": 0},
        {"store": False, "verbosity": "medium", "modalities": ["text"], "safety_identifier": "someone"},
        {"prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "implicit"}},
        {"reasoning_effort": "max", "chat_template_kwargs": {"enable_thinking": True}},
    ],
)
def test_what_the_clients_send_by_themselves_is_accepted(fields: dict) -> None:
    chat.validate(GOOD | fields)


def test_the_newer_limit_counts_before_the_older() -> None:
    limits = [{}, {"max_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 3}]
    assert [chat.validate(GOOD | limit).token_limit for limit in limits] == [None, 5, 3]


# --- what is answered


def test_the_whole_answer_and_the_streamed_one_say_the_same() -> None:
    done = Done({"choices": [choice("ab")]}, USAGE)
    asked = spec(stream_options={"include_usage": True})
    whole = chat.body(asked, [], done)
    stream = chat.Stream(asked)
    chunks = [*stream.delta(Delta("a")), *stream.delta(Delta("b")), *stream.done(done)]

    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert text == shapes.chat(whole).choices[0].message.content == "ab"
    assert [shapes.chat_chunk(chunk).id for chunk in chunks] == [whole["id"]] * 5
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == whole["usage"] and chunks[-1]["choices"] == []
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 4


def test_without_include_usage_no_chunk_speaks_of_it() -> None:
    stream = chat.Stream(spec())
    chunks = [*stream.delta(Delta("a")), *stream.done(Done({"choices": [choice("a")]}, USAGE))]
    assert len(chunks) == 3 and not any("usage" in chunk for chunk in chunks)


def test_choices_are_in_the_order_of_their_index() -> None:
    done = Done({"choices": [choice("a"), choice("b", "length"), choice("")]}, USAGE)
    whole = shapes.chat(chat.body(spec(n=3), [], done))
    assert [(each.index, each.message.content, each.finish_reason) for each in whole.choices] == [
        (0, "a", "stop"), (1, "b", "length"), (2, "", "stop")
    ]


def test_every_choice_of_a_stream_has_one_role_and_one_end() -> None:
    stream = chat.Stream(spec(n=2))
    done = Done({"choices": [choice("a"), choice("b", "length")]}, USAGE)
    chunks = [*stream.delta(Delta("b", data={"choice": 1})), *stream.delta(Delta("a")), *stream.done(done)]

    said = [shapes.chat_chunk(chunk).choices[0] for chunk in chunks]
    assert [each.index for each in said if each.delta.role] == [0, 1]
    assert [(each.index, each.delta.content) for each in said[2:4]] == [(1, "b"), (0, "a")]
    assert [(each.index, each.finish_reason) for each in said[4:]] == [(0, "stop"), (1, "length")]


def test_a_message_of_calls_alone_has_no_content() -> None:
    called = choice("", "tool_calls", tool_calls=[CALL])
    message = shapes.chat(chat.body(spec(), [], Done({"choices": [called]}, USAGE))).choices[0].message
    assert message.content is None
    assert message.tool_calls[0].model_dump() == CALL
    spoken = chat.body(spec(), [], Done({"choices": [called | {"text": "So:"}]}, USAGE))
    assert spoken["choices"][0]["message"]["content"] == "So:"


def test_streamed_calls_are_passed_on_as_they_grow() -> None:
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": "{}"}}
    stream = chat.Stream(spec())
    chunks = [frame for call in (first, more) for frame in stream.delta(Delta(data={"tool_calls": [call]}))]

    role, *said = [shapes.chat_chunk(chunk).choices[0].delta for chunk in chunks]
    assert (role.role, role.content) == ("assistant", None)
    assert [each.tool_calls[0].function.arguments for each in said] == ["", "{}"]
    assert (said[0].tool_calls[0].id, said[1].tool_calls[0].id) == ("c1", None)


def test_reasoning_stands_beside_the_content() -> None:
    done = Done({"choices": [choice("4", reasoning="2 + 2")]}, USAGE)
    message = chat.body(spec(), [], done)["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("4", "2 + 2")

    stream = chat.Stream(spec())
    _, thought, said = [*stream.delta(Delta(data={"reasoning": "2 + 2"})), *stream.delta(Delta("4"))]
    assert thought["choices"][0]["delta"] == {"reasoning_content": "2 + 2"}
    assert said["choices"][0]["delta"] == {"content": "4"}


def test_logprobs_are_gathered_from_the_deltas_of_each_choice() -> None:
    asked = spec(n=2, logprobs=True, top_logprobs=1)
    said = [
        Delta("a", data={"logprobs": [scored("a", top=("x",))]}),
        Delta("c", data={"logprobs": [scored("c")], "choice": 1}),
        Delta("b", data={"logprobs": [scored("b")]}),
    ]
    done = Done({"choices": [choice("ab"), choice("c")]}, USAGE)
    whole = shapes.chat(chat.body(asked, said, done)).choices
    assert [[each.token for each in one.logprobs.content] for one in whole] == [["a", "b"], ["c"]]
    assert whole[0].logprobs.content[0].model_dump() == {
        "token": "a", "bytes": [97], "logprob": -0.5,
        "top_logprobs": [{"token": "x", "bytes": [120], "logprob": -1.0}],
    }
    assert whole[0].logprobs.refusal is None


def test_the_logprobs_of_a_delta_go_with_its_chunk() -> None:
    stream = chat.Stream(spec(logprobs=True))
    told, bare = ({"logprobs": [scored(token)]} for token in ("a", ""))
    events = (Delta("a", data=told), Delta("b"), Delta(data=bare))
    _, *chunks = [frame for event in events for frame in stream.delta(event)]
    said = [shapes.chat_chunk(chunk).choices[0] for chunk in chunks]
    assert [each.logprobs and [one.token for one in each.logprobs.content] for each in said] == [
        ["a"], None, [""]
    ]
    assert [each.delta.content for each in said] == ["a", "b", ""]


def test_logprobs_that_nobody_asked_for_are_not_told() -> None:
    event = Delta("a", data={"logprobs": [scored("a")]})
    done = Done({"choices": [choice("a")]}, USAGE)
    assert chat.body(spec(), [event], done)["choices"][0]["logprobs"] is None
    assert chat.Stream(spec()).delta(event)[-1]["choices"][0]["logprobs"] is None


def test_a_delta_that_only_counts_tokens_is_no_chunk() -> None:
    stream = chat.Stream(spec())
    assert len(stream.delta(Delta(tokens=1))) == 1  # the role
    assert stream.delta(Delta(tokens=1)) == []


def test_reading_a_job_twice_gives_the_same_answer() -> None:
    events = [Delta("a"), Delta(data={"tool_calls": [CALL | {"index": 0}]})]
    done = Done({"choices": [choice("a", "tool_calls", tool_calls=[CALL])]}, USAGE)
    readings = []
    for _ in range(2):
        stream = chat.Stream(spec())
        chunks = [frame for event in events for frame in stream.delta(event)] + stream.done(done)
        readings.append((chunks, chat.body(spec(), events[1:], done)))
    assert readings[0] == readings[1]
