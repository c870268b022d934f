"""langchain-openai, as chains and agents use it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.clients import libraries
from tests.live import Live
from tests.openai.asking import script


class Weather(BaseModel):
    """The weather of a city."""

    city: str


OSLO = {"city": "Oslo"}
CALL = {"call": {"arguments": OSLO}}


@pytest.fixture
def where(loopback: None, live: Live) -> Iterator[dict[str, Any]]:
    with libraries.langchain(live.url) as where:
        yield where | {"model": "echo"}


@pytest.fixture
def model(where: dict[str, Any]) -> Callable[..., Any]:
    """Makes a model whose every request tells the echo engine the same."""
    from langchain_openai import ChatOpenAI

    def model(told: dict | None = None, **fields: Any) -> Any:
        beside = {"extra_body": {"metadata": script(**told)}} if told else {}
        return ChatOpenAI(**where | beside | fields)

    return model


def test_a_model_is_invoked(model: Callable) -> None:
    answer = model(seed=7, temperature=0.5).invoke([("system", "Be brief."), ("human", "one two three")])
    assert (answer.content, answer.response_metadata["finish_reason"]) == ("one two three", "stop")
    assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (5, 3)


def test_a_stream_adds_up_to_the_answer(model: Callable) -> None:
    first, *rest = model(stream_usage=True).stream("one two three")
    whole = sum(rest, first)
    assert (whole.content, whole.usage_metadata["total_tokens"]) == ("one two three", 6)


async def test_a_batch_runs_at_once(model: Callable) -> None:
    async with httpx.AsyncClient() as http:
        answers = await model(http_async_client=http).abatch(["one", "two", "three"])
    assert [answer.content for answer in answers] == ["one", "two", "three"]


def test_logprobs_are_in_the_metadata(model: Callable) -> None:
    answer = model(logprobs=True, top_logprobs=2).invoke("one two")
    scored = answer.response_metadata["logprobs"]["content"]
    assert [each["token"] for each in scored] == ["one", " two"]


@pytest.mark.parametrize("choice", ["required", "any", "Weather", "auto"])
def test_bound_tools_are_called(model: Callable, choice: str) -> None:
    answer = model(CALL).bind_tools([Weather], tool_choice=choice).invoke("How warm is it?")
    [call] = answer.tool_calls
    assert (call["name"], call["args"], answer.invalid_tool_calls) == ("Weather", OSLO, [])
    assert call["id"].startswith("call_")


def test_calls_of_a_stream_add_up(model: Callable) -> None:
    told = {"call": [{"arguments": OSLO}, {"arguments": {"city": "Rome"}}], "hang_at": 3, "hang_ms": 20}
    first, *rest = model(told).bind_tools([Weather]).stream("How warm is it?")
    assert [call["args"]["city"] for call in sum(rest, first).tool_calls] == ["Oslo", "Rome"]


def test_results_of_tools_are_sent_back(model: Callable) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage

    messages: list = [HumanMessage("How warm is it?")]
    messages.append(model(CALL).bind_tools([Weather]).invoke(messages))
    messages.append(ToolMessage("3 degrees", tool_call_id=messages[-1].tool_calls[0]["id"]))
    assert model({"text": "Three."}).bind_tools([Weather]).invoke(messages).content == "Three."


@pytest.mark.parametrize(
    ("method", "told"),
    [("json_schema", {"text": json.dumps(OSLO)}), ("json_mode", {"text": json.dumps(OSLO)}),
     ("function_calling", CALL)],
)  # fmt: skip
def test_structured_output_is_parsed(model: Callable, method: str, told: dict) -> None:
    chain = model(told).with_structured_output(Weather, method=method)
    assert chain.invoke("How warm is it? Answer in JSON.") == Weather(**OSLO)


def test_errors_are_those_of_the_official_client(model: Callable) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        model(extra_body={"top_p": 7}).invoke("one")
    assert raised.value.param == "top_p"


def test_a_prompt_is_completed(where: dict[str, Any]) -> None:
    from langchain_openai import OpenAI

    model = OpenAI(**where)
    assert model.invoke("one two") == " one two"
    assert "".join(model.stream("one two")) == " one two"
