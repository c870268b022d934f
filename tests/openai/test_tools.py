"""Tools with the official client: whole, streamed, parsed, and their results sent back."""

import json
from typing import Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.live import Live
from tests.openai.asking import MESSAGES, TOOL, chat, script
from tests.shared import shapes

OSLO = {"city": "Oslo, the capital of Norway"}
CALL = script(call={"arguments": OSLO})


class Weather(BaseModel):
    """Tells the weather."""

    city: str
    unit: Literal["C", "F"]


class Clock(BaseModel):
    city: str


STRICT = [openai.pydantic_function_tool(Weather), openai.pydantic_function_tool(Clock)]
CALLS = [
    {"name": "Weather", "arguments": {"city": "Oslo", "unit": "C"}},
    {"name": "Clock", "arguments": {"city": "Rome"}},
]
ARGUMENTS = [Weather(city="Oslo", unit="C"), Clock(city="Rome")]
BOTH = {"model": "echo", "messages": MESSAGES, "tools": STRICT, "metadata": script(call=CALLS)}


def test_a_call_is_an_answer(client: OpenAI) -> None:
    [choice] = shapes.chat(chat(client, tools=[TOOL], metadata=CALL).to_dict()).choices
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == OSLO


@pytest.mark.parametrize(
    ("choice", "end"),
    [
        ("none", "stop"),
        ("auto", "tool_calls"),
        ("required", "tool_calls"),
        ({"type": "function", "function": {"name": "weather"}}, "stop"),
    ],
)
def test_a_tool_choice_decides_about_calls(client: OpenAI, choice: str | dict, end: str) -> None:
    [answer] = chat(client, tools=[TOOL], tool_choice=choice, metadata=CALL).choices
    assert (answer.finish_reason, bool(answer.message.tool_calls)) == (end, choice != "none")


def test_every_choice_has_calls_with_ids_of_their_own(client: OpenAI) -> None:
    choices = chat(client, **BOTH | {"n": 3}).choices
    calls = [call for choice in choices for call in choice.message.tool_calls]
    assert [call.function.name for call in calls] == ["Weather", "Clock"] * 3
    assert len({call.id for call in calls}) == 6


def test_one_call_at_most_unless_parallel(client: OpenAI) -> None:
    [choice] = chat(client, **BOTH | {"parallel_tool_calls": False}).choices
    assert [call.function.name for call in choice.message.tool_calls] == ["Weather"]


def test_the_chunks_of_a_call_have_its_id_and_name_once(client: OpenAI) -> None:
    chunks = [chunk for chunk in chat(client, **BOTH | {"stream": True})]
    for chunk in chunks:
        shapes.chat_chunk(chunk.to_dict())
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    heads = [(part.index, part.type, part.function.name) for part in parts if part.id]
    assert heads == [(0, "function", "Weather"), (1, "function", "Clock")]
    assert [part.function.name for part in parts if not part.id] == [None] * (len(parts) - 2)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_stream_helper_tells_how_arguments_grow(client: OpenAI) -> None:
    slow = script(call=CALLS, hang_at=4, hang_ms=50)  # so that there is more than one chunk
    with client.chat.completions.stream(**BOTH | {"metadata": slow}) as stream:
        events = [event for event in stream if event.type.startswith("tool_calls.")]
        final = stream.get_final_completion().choices[0]
    growing = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]

    for index, whole in enumerate(done):
        grown = [event for event in growing if event.index == index]
        assert "".join(event.arguments_delta for event in grown) == grown[-1].arguments == whole.arguments
        assert grown[-1].parsed_arguments == CALLS[index]["arguments"]
    assert growing[0].arguments != done[0].arguments
    assert [(event.index, event.name) for event in done] == [(0, "Weather"), (1, "Clock")]
    assert [event.parsed_arguments for event in done] == ARGUMENTS
    assert [call.function.parsed_arguments for call in final.message.tool_calls] == ARGUMENTS
    assert final.finish_reason == "tool_calls"


def test_the_stream_helper_takes_reasoning_content_and_calls(client: OpenAI) -> None:
    told = script(think="hm hm", text="one moment", call=CALLS[0])
    with client.chat.completions.stream(**BOTH | {"metadata": told}) as stream:
        kinds = [event.type for event in stream if event.type.endswith(".done")]
        message = stream.get_final_completion().choices[0].message
    assert kinds == ["content.done", "tool_calls.function.arguments.done"]
    assert (message.reasoning_content, message.content) == ("hm hm", "one moment")
    assert message.tool_calls[0].function.parsed_arguments == ARGUMENTS[0]


def test_strict_tools_are_parsed_into_their_models(client: OpenAI) -> None:
    [choice] = client.chat.completions.parse(**BOTH).choices
    assert [call.function.parsed_arguments for call in choice.message.tool_calls] == ARGUMENTS


def test_results_are_sent_back_until_the_model_answers(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "How warm is it?"}]
    asked = {"model": "echo", "tools": STRICT}
    first = client.chat.completions.parse(**asked, messages=messages, metadata=script(call=CALLS))
    message = first.choices[0].message
    messages.append(message)
    for call in message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 3}'})
    last = client.chat.completions.create(**asked, messages=messages, metadata=script(text="Three."))
    assert (last.choices[0].finish_reason, last.choices[0].message.content) == ("stop", "Three.")
    assert last.usage.prompt_tokens > first.usage.prompt_tokens


async def test_the_asynchronous_stream_helper_tells_calls_too(live: Live) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        async with client.chat.completions.stream(**BOTH) as stream:
            done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [event.parsed_arguments for event in done] == ARGUMENTS


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "unsupported_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice.function.name", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "3"}]}, "messages[0].tool_call_id",
         "missing_required_parameter"),
        ({"functions": [TOOL["function"]]}, "functions", "unsupported_value"),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_served_are_refused_by_name(
    client: OpenAI, fields: dict, param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, **fields)
    assert (raised.value.param, raised.value.code) == (param, code)
