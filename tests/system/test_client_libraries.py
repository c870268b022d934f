"""Client libraries on real models: what they want read by a schema fits it, by constrained decoding."""

import json
from collections.abc import Callable
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.clients import libraries
from tests.system.conftest import System

pytestmark = [
    pytest.mark.models,
    # What pydantic says of litellm's own types when it reads them first.
    pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier:UserWarning"),
]

LLM, EMBEDDING = "smollm2-135m", "all-minilm-l6-v2"
MESSAGES = [{"role": "user", "content": "How is the weather in Oslo?"}]
GREEDY = {"temperature": 0, "max_tokens": 64}
ASKED = {"model": LLM, "messages": MESSAGES} | GREEDY


class Weather(BaseModel):
    """The weather of a city."""

    model_config = ConfigDict(extra="forbid")  # else more fields fit too, and a small model has ideas
    city: Literal["Oslo", "Rome"]
    degrees: int = Field(ge=-20, le=40)
    wet: bool


TOOL = openai.pydantic_function_tool(Weather)
ONE = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}


def official_schema(system: System) -> Any:
    answer = system.client.chat.completions.parse(**ASKED, response_format=Weather)
    return answer.choices[0].message.parsed


def official_tool(system: System) -> Any:
    answer = system.client.chat.completions.parse(**ASKED, **ONE)
    [call] = answer.choices[0].message.tool_calls
    return call.function.parsed_arguments


def official_stream(system: System) -> Any:
    named = {"type": "function", "function": {"name": "Weather"}}
    with system.client.chat.completions.stream(**ASKED, tools=[TOOL], tool_choice=named) as stream:
        events = [event for event in stream if event.type.startswith("tool_calls.")]
    *growing, done = events
    assert "".join(event.arguments_delta for event in growing) == done.arguments
    assert growing[0].arguments != done.arguments
    return done.parsed_arguments


def litellm_schema(system: System) -> Any:
    answer = _litellm(system, response_format=Weather)
    return Weather.model_validate_json(answer.choices[0].message.content)


def litellm_tool(system: System) -> Any:
    answer = _litellm(system, **ONE)
    return Weather.model_validate_json(answer.choices[0].message.tool_calls[0].function.arguments)


def langchain_schema(system: System) -> Any:
    return _langchain(system, lambda model: model.with_structured_output(Weather, method="json_schema"))


def langchain_function(system: System) -> Any:
    return _langchain(system, lambda model: model.with_structured_output(Weather, method="function_calling"))


def langchain_tool(system: System) -> Any:
    fields = {"tool_choice": "any", "parallel_tool_calls": False}
    answer = _langchain(system, lambda model: model.bind_tools([Weather], **fields))
    return Weather(**answer.tool_calls[0]["args"])


def instructor_schema(system: System) -> Any:
    return _instructor(system, "JSON_SCHEMA")


def instructor_tool(system: System) -> Any:
    return _instructor(system, "TOOLS")


def _litellm(system: System, **fields: Any) -> Any:
    with libraries.litellm() as litellm:
        where = {"model": f"openai/{LLM}", "api_base": f"{system.url}/v1", "api_key": "none"}
        return litellm.completion(**ASKED | where | fields)


def _langchain(system: System, chain: Callable[[Any], Any]) -> Any:
    with libraries.langchain(system.url) as where:
        from langchain_openai import ChatOpenAI

        return chain(ChatOpenAI(**where, model=LLM, **GREEDY)).invoke(MESSAGES)


def _instructor(system: System, mode: str) -> Any:
    import instructor

    client = instructor.from_openai(system.client, mode=instructor.Mode[mode])
    return client.chat.completions.create(**ASKED, response_model=Weather, max_retries=0)


@pytest.mark.parametrize(
    "ask",
    [official_schema, official_tool, official_stream, litellm_schema, litellm_tool, langchain_schema,
     langchain_function, langchain_tool, instructor_schema, instructor_tool],
    ids=lambda ask: ask.__name__,
)  # fmt: skip
def test_what_is_asked_for_by_a_schema_fits_it(system: System, ask: Callable[[System], Any]) -> None:
    said = ask(system)
    assert isinstance(said, Weather)
    assert Weather.model_validate_json(said.model_dump_json(), strict=True).model_dump() == said.model_dump()


@pytest.mark.slow
def test_the_model_answers_to_the_result_of_its_call(system: System) -> None:
    first = system.client.chat.completions.create(**ASKED, **ONE)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": json.dumps({"degrees": 3})}
    conversation = ASKED | {"messages": [*MESSAGES, message, result], "max_tokens": 12}
    last = system.client.chat.completions.create(**conversation, tools=[TOOL], tool_choice="none")
    assert last.choices[0].message.content and not last.choices[0].message.tool_calls


def test_embeddings_are_the_same_by_every_client(system: System) -> None:
    texts = ["A cat sleeps.", "Stocks fell."]
    official = [each.embedding for each in system.client.embeddings.create(model=EMBEDDING, input=texts).data]
    with libraries.langchain(system.url) as where:
        from langchain_openai import OpenAIEmbeddings

        model = OpenAIEmbeddings(**where, model=EMBEDDING, check_embedding_ctx_length=False)
        assert model.embed_documents(texts) == [pytest.approx(vector, abs=1e-6) for vector in official]
    with libraries.litellm() as litellm:
        where = {"api_base": f"{system.url}/v1", "api_key": "none", "encoding_format": "float"}
        answer = litellm.embedding(model=f"openai/{EMBEDDING}", input=texts, **where)
        vectors = [each["embedding"] for each in answer.data]
        assert vectors == [pytest.approx(vector, abs=1e-6) for vector in official]
