"""What must have a form has it: answers by a schema or a grammar, and calls that must be made."""

import asyncio
import json
import re
from itertools import cycle, islice
from typing import Any

import jsonschema
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field

from tests.system.asking import LLM, hear, user

pytestmark = pytest.mark.models

AT_ONCE = 16
NAME = {"type": "string", "maxLength": 12}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
LEAF = {"type": "object", "properties": {"a": NAME}, "required": ["a"], "additionalProperties": False}
QUARTERS = {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}
PAIR = {"type": "array", "prefixItems": [{"type": "boolean"}, NAME], "items": False, "minItems": 2}
SCHEMAS: list[dict[str, Any]] = [
    {"properties": {"name": NAME, "age": {"type": "integer", "minimum": 0, "maximum": 120}}},
    {"properties": {"colour": {"enum": ["red", "green", "blue"]}, "sure": {"type": "boolean"}}},
    {"properties": {"sizes": {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 4}}},
    {"properties": {"inner": LEAF}},
    {"properties": {"either": {"anyOf": [{"type": "null"}, DIGIT]}}},
    {"properties": {"when": {"type": "string", "pattern": "^20[0-9]{2}-[01][0-9]$"}}},
    {"properties": {"kind": {"const": "fixed"}, "ratio": QUARTERS}},
    {"properties": {"pair": PAIR}},
    {"properties": {"node": {"$ref": "#/$defs/leaf"}}, "$defs": {"leaf": {"enum": ["left", "right"]}}},
    {"properties": {"tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3}, "note": NAME}},
]


def whole(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(schema["properties"]),
        "additionalProperties": False,
    } | schema


async def together(asked: list[Any]) -> list[Any]:
    """At most so many at once as are rows."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(ask: Any) -> Any:
        async with gate:
            return await ask

    return await asyncio.gather(*map(one, asked))


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
async def test_answers_validate_against_their_schema(client: AsyncOpenAI, count: int) -> None:
    async def ask(number: int, schema: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        answer = await client.chat.completions.create(
            model=LLM,
            messages=user(f"Number {number}: answer in JSON."),
            response_format=form,
            temperature=0.8,
            seed=number,
            max_tokens=400,
        )
        return schema, answer.choices[0]

    schemas = islice(cycle(map(whole, SCHEMAS)), count)
    answers = await together([ask(number, schema) for number, schema in enumerate(schemas)])
    assert len(answers) == count
    for schema, choice in answers:
        assert choice.finish_reason == "stop"
        jsonschema.Draft202012Validator(schema).validate(json.loads(choice.message.content))


@pytest.mark.slow
async def test_a_streamed_answer_by_a_schema_is_the_whole_one(client: AsyncOpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": whole(SCHEMAS[0])}}
    fields = {"model": LLM, "messages": user("Who?"), "response_format": form, "seed": 4, "max_tokens": 200}
    heard = await hear(client.chat.completions.create(**fields, stream=True))
    answer = await client.chat.completions.create(**fields)
    assert heard.texts == [answer.choices[0].message.content]
    assert len(heard.pieces) > 3
    jsonschema.validate(json.loads(heard.texts[0]), whole(SCHEMAS[0]))


@pytest.mark.parametrize(
    ("syntax", "definition", "matches"),
    [
        ("regex", r"(yes|no), [a-z]{3,8}\.", r"(yes|no), [a-z]{3,8}\."),
        (
            "lark",
            'start: "[" NUMBER ("," NUMBER)~2 "]"\nNUMBER: /[0-9]{1,3}/',
            r"\[\d{1,3},\d{1,3},\d{1,3}\]",
        ),
    ],
)
async def test_a_grammar_holds_for_chats_and_completions(
    client: AsyncOpenAI, syntax: str, definition: str, matches: str
) -> None:
    form = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    fields = {"model": LLM, "temperature": 1.0, "seed": 3, "max_tokens": 60}
    chat = client.chat.completions.create(**fields, messages=user("Well?"), response_format=form)
    completion = client.completions.create(**fields, prompt="Well", extra_body={"response_format": form})
    said, rest = await asyncio.gather(chat, completion)
    assert re.fullmatch(matches, said.choices[0].message.content)
    assert re.fullmatch(matches, rest.choices[0].text)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "not": {}}}},
            "response_format.json_schema.schema",
        ),
        (
            {"type": "grammar", "grammar": {"syntax": "regex", "definition": "(("}},
            "response_format.grammar.definition",
        ),
    ],
)
async def test_what_cannot_be_compiled_is_refused(
    client: AsyncOpenAI, form: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model=LLM, messages=user("Hi"), response_format=form)
    assert refused.value.param == param


class Weather(BaseModel):
    """The weather of a city."""

    model_config = ConfigDict(extra="forbid")
    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=9)


class Clock(BaseModel):
    """The time of a zone."""

    model_config = ConfigDict(extra="forbid")
    zone: str = Field(max_length=12)


TOOLS = [openai.pydantic_function_tool(Weather), openai.pydantic_function_tool(Clock)]
NAMED = {"type": "function", "function": {"name": "Clock"}}


@pytest.mark.parametrize("count", [8, pytest.param(50, marks=pytest.mark.slow)])
async def test_calls_that_must_be_made_are_valid(client: AsyncOpenAI, count: int) -> None:
    """Streamed and whole in turn, by `required` and by name in turn."""

    async def ask(number: int) -> tuple[Any, Any]:
        choice = "required" if number % 2 else NAMED
        fields = {
            "model": LLM,
            "messages": user(f"Number {number}: what is it like there?"),
            "tools": TOOLS,
            "tool_choice": choice,
            "parallel_tool_calls": False,
            "temperature": 0.8,
            "seed": number,
            "max_tokens": 200,
        }
        if number % 4 < 2:
            return choice, (await client.chat.completions.parse(**fields)).choices[0]
        async with client.chat.completions.stream(**fields) as stream:
            return choice, (await stream.get_final_completion()).choices[0]

    for choice, said in await together([ask(number) for number in range(count)]):
        [call] = said.message.tool_calls
        assert isinstance(call.function.parsed_arguments, Weather | Clock)
        assert call.function.name == type(call.function.parsed_arguments).__name__
        assert said.message.content is None
        assert said.finish_reason == ("tool_calls" if choice == "required" else "stop")
        assert choice == "required" or call.function.name == "Clock"


@pytest.mark.slow
async def test_several_calls_may_be_made_at_once(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=LLM, messages=user("Two cities?"), tools=TOOLS, tool_choice="required", seed=1, max_tokens=700
    )
    calls = answer.choices[0].message.tool_calls
    assert 1 <= len(calls) <= 16
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        {"Weather": Weather, "Clock": Clock}[call.function.name].model_validate_json(call.function.arguments)
