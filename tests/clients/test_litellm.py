"""litellm, by its provider for whatever speaks OpenAI's language."""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from tests.clients import libraries
from tests.live import Live
from tests.openai.asking import MESSAGES, TOOL, script

# What pydantic says of litellm's own types when it reads them first, and of how litellm reads its chunks.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:Accessing the 'model_(computed_)?fields' attri:DeprecationWarning"),
]

OSLO = {"city": "Oslo"}


class City(BaseModel):
    city: str


@pytest.fixture
def litellm(loopback: None) -> Iterator[ModuleType]:
    with libraries.litellm() as litellm:
        yield litellm


def asked(live: Live, told: dict | None = None, **fields: Any) -> dict[str, Any]:
    """litellm keeps `metadata` for itself, so what the echo engine is told goes another way."""
    beside = {"extra_body": {"metadata": script(**told)}} if told else {}
    base = {"model": "openai/echo", "api_base": f"{live.url}/v1", "api_key": "none", "num_retries": 0}
    return base | {"messages": MESSAGES} | beside | fields


def test_a_completion(litellm: ModuleType, live: Live) -> None:
    answer = litellm.completion(**asked(live, n=2, stop=["three"]))
    assert [choice.message.content for choice in answer.choices] == ["one two "] * 2
    assert (answer.choices[0].finish_reason, answer.usage.prompt_tokens) == ("stop", 3)


def test_a_stream_is_built_again_into_the_whole_answer(litellm: ModuleType, live: Live) -> None:
    usage = {"stream_options": {"include_usage": True}}
    chunks = list(litellm.completion(**asked(live, {"think": "hm hm"}, stream=True, **usage)))
    answer = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("hm hm", "one two three")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 5)


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called(litellm: ModuleType, live: Live, stream: bool) -> None:
    told = {"call": [{"arguments": OSLO}, {"arguments": OSLO}]}
    answer = litellm.completion(**asked(live, told, tools=[TOOL], tool_choice="required", stream=stream))
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=MESSAGES)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("weather", OSLO)
    ] * 2
    assert len({call.id for call in calls}) == 2


def test_results_of_tools_are_sent_back(litellm: ModuleType, live: Live) -> None:
    first = litellm.completion(**asked(live, {"call": {"arguments": OSLO}}, tools=[TOOL]))
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "3"}
    again = [*MESSAGES, message.model_dump(), result]
    last = litellm.completion(**asked(live, {"text": "Three."}, tools=[TOOL], messages=again))
    assert last.choices[0].message.content == "Three."


def test_a_model_is_a_response_format(litellm: ModuleType, live: Live) -> None:
    answer = litellm.completion(**asked(live, {"text": json.dumps(OSLO)}, response_format=City))
    assert City.model_validate_json(answer.choices[0].message.content) == City(**OSLO)


def test_a_prompt_is_completed(litellm: ModuleType, live: Live) -> None:
    fields = asked(live) | {"model": "text-completion-openai/echo", "prompt": "one two"}
    del fields["messages"]
    assert litellm.text_completion(**fields).choices[0].text == " one two"
    chunks = litellm.text_completion(**fields, stream=True)
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == " one two"


def test_errors_are_its_own(litellm: ModuleType, live: Live) -> None:
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**asked(live, temperature=9))
    with pytest.raises(litellm.NotFoundError, match="nope"):
        litellm.completion(**asked(live, model="openai/nope"))
    with pytest.raises(litellm.InternalServerError):
        litellm.completion(**asked(live, {"raise_in": "prepare"}))


async def test_the_asynchronous_calls(litellm: ModuleType, live: Live) -> None:
    async with httpx.AsyncClient() as litellm.aclient_session:
        whole = await litellm.acompletion(**asked(live))
        chunks = [chunk async for chunk in await litellm.acompletion(**asked(live, stream=True))]
    litellm.aclient_session = None
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content == "one two three"
