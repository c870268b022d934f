"""A model that thinks and calls: tiny, with random weights, so that biases decide what it says.

Its vocabulary and its template are like Qwen3's. A penalty takes the bias from a token once it is said.
"""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from openai import AsyncOpenAI
from tokenizers import Tokenizer

from tests.system.asking import THINKER, hear, user
from tests.system.conftest import System

pytestmark = pytest.mark.models

Ids = dict[str, int]
ASKED = {"model": THINKER, "messages": user("Why?"), "temperature": 0}
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>")
THINKING = ("<think>", "ĠHello", "Ġworld", "</think>", "ĠGood")
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
PAINT = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "layers": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["colour", "layers"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "paint", "schema": PAINT}}
TOOLS = [{"type": "function", "function": {"name": "paint", "parameters": PAINT, "strict": True}}]
NAMED = {"type": "function", "function": {"name": "paint"}}


@pytest.fixture(scope="module")
def ids(made: Path) -> Ids:
    return Tokenizer.from_file(str(made / THINKER / "tokenizer.json")).get_vocab()


def saying(ids: Ids, *tokens: str) -> dict[str, Any]:
    """What makes an answer begin with these tokens, and then go on without a marker."""
    bias = {str(ids[mark]): -100 for mark in MARKS}
    bias |= {str(ids[token]): 100 - 20 * at for at, token in enumerate(tokens)}
    return {"logit_bias": bias, "extra_body": {"repetition_penalty": 1e6}}


async def test_reasoning_is_parted_from_the_content_whole_and_streamed(client: AsyncOpenAI, ids: Ids) -> None:
    asked = ASKED | saying(ids, *THINKING) | {"max_tokens": 12}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    whole, heard = await asyncio.gather(
        client.chat.completions.create(**asked, n=2),
        hear(client.chat.completions.create(**asked, **options)),
    )
    for choice in whole.choices:
        assert choice.message.reasoning_content == "Hello world"
        assert choice.message.content.startswith("Good")
        assert choice.finish_reason == "length"
    assert heard.reasonings == ["Hello world"]
    assert heard.texts == [whole.choices[0].message.content]
    assert whole.usage.completion_tokens_details.reasoning_tokens == 8  # markers too, of two choices
    assert heard.usage.completion_tokens_details.reasoning_tokens == 4
    assert heard.usage.completion_tokens == 12


async def test_reasoning_that_the_limit_ends_is_no_content(client: AsyncOpenAI, ids: Ids) -> None:
    answer = await client.chat.completions.create(**ASKED, **saying(ids, *THINKING), max_tokens=3)
    [choice] = answer.choices
    assert (choice.message.reasoning_content, choice.message.content) == ("Hello world", "")
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == answer.usage.completion_tokens_details.reasoning_tokens == 3


@pytest.mark.parametrize("off", [{"extra_body": OFF}, {"reasoning_effort": "none"}], ids=["kwargs", "effort"])
async def test_thinking_can_be_switched_off(client: AsyncOpenAI, ids: Ids, off: dict) -> None:
    asked = ASKED | {"max_tokens": 3, "logit_bias": {str(ids["ĠGood"]): 100}}
    plain, answer = await asyncio.gather(
        client.chat.completions.create(**asked), client.chat.completions.create(**asked, **off)
    )
    [choice] = answer.choices
    assert choice.message.content.split() == ["Good"] * 3
    assert not getattr(choice.message, "reasoning_content", None)
    assert answer.usage.prompt_tokens > plain.usage.prompt_tokens  # an empty block of reasoning
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


async def test_a_schema_holds_for_what_follows_the_reasoning(client: AsyncOpenAI, ids: Ids) -> None:
    asked = ASKED | saying(ids, *THINKING) | {"response_format": FORM, "max_tokens": 200}
    whole, heard = await asyncio.gather(
        client.chat.completions.create(**asked),
        hear(client.chat.completions.create(**asked, stream=True)),
    )
    [choice] = whole.choices
    assert (choice.finish_reason, choice.message.reasoning_content) == ("stop", "Hello world")
    jsonschema.validate(json.loads(choice.message.content), PAINT)
    assert (heard.texts, heard.reasonings) == ([choice.message.content], ["Hello world"])


async def test_with_a_schema_and_without_thinking_the_answer_is_there_at_once(
    client: AsyncOpenAI, ids: Ids
) -> None:
    asked = ASKED | {"response_format": FORM, "max_tokens": 200, "extra_body": OFF}
    asked["logit_bias"] = {str(ids["<think>"]): 100}
    [choice] = (await client.chat.completions.create(**asked)).choices
    assert not getattr(choice.message, "reasoning_content", None)
    jsonschema.validate(json.loads(choice.message.content), PAINT)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_the_model_begins_is_a_valid_one(
    client: AsyncOpenAI, ids: Ids, stream: bool
) -> None:
    """Nothing but its first token is decided here: the grammar takes over from there."""
    asked = ASKED | {"tools": TOOLS, "parallel_tool_calls": False, "max_tokens": 200}
    asked["logit_bias"] = {str(ids["<tool_call>"]): 100}
    [choice] = (await final(client, asked, stream)).choices
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert call.function.name == "paint"
    jsonschema.validate(json.loads(call.function.arguments), PAINT)


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_that_follow_one_another_are_told_apart(
    client: AsyncOpenAI, ids: Ids, stream: bool
) -> None:
    """Here the limit ends the last one."""
    asked = ASKED | {"tools": TOOLS, "max_tokens": 150, "logit_bias": {str(ids["<tool_call>"]): 100}}
    [choice] = (await final(client, asked, stream)).choices
    *calls, last = choice.message.tool_calls
    assert choice.finish_reason == "length"
    assert len({call.id for call in [*calls, last]}) == len(calls) + 1 > 1
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), PAINT)


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
async def test_a_forced_call_may_be_thought_about(client: AsyncOpenAI, ids: Ids, choice: Any) -> None:
    asked = ASKED | saying(ids, *THINKING) | {"tools": TOOLS, "tool_choice": choice, "max_tokens": 200}
    [said] = (await client.chat.completions.create(**asked, parallel_tool_calls=False)).choices
    assert said.message.reasoning_content == "Hello world"
    jsonschema.validate(json.loads(said.message.tool_calls[0].function.arguments), PAINT)
    assert said.finish_reason == ("tool_calls" if choice == "required" else "stop")


async def test_what_was_thought_and_called_is_taken_back(client: AsyncOpenAI, ids: Ids) -> None:
    asked = ASKED | saying(ids, *THINKING) | {"tools": TOOLS, "max_tokens": 200}
    first = await client.chat.completions.create(**asked, tool_choice="required", parallel_tool_calls=False)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It is dry."}
    more = {"messages": [*ASKED["messages"], message, result], "tool_choice": "none", "max_tokens": 6}
    last = await client.chat.completions.create(**asked | saying(ids, "ĠGood") | more)
    assert last.choices[0].message.content.startswith(" Good")
    assert last.choices[0].message.tool_calls is None


async def test_a_context_can_be_filled_to_the_last_token(client: AsyncOpenAI, ids: Ids) -> None:
    bias = {str(ids["<|im_end|>"]): -100}
    score, rest, refused = await asyncio.gather(
        client.completions.create(model=THINKER, prompt=[70] * 2048, echo=True, logprobs=0, max_tokens=0),
        client.completions.create(model=THINKER, prompt=[70] * 2040, max_tokens=100, logit_bias=bias),
        client.completions.create(model=THINKER, prompt=[70] * 2049, echo=True, max_tokens=0),
        return_exceptions=True,
    )
    assert len(score.choices[0].logprobs.tokens) == 2048
    assert (rest.usage.completion_tokens, rest.choices[0].finish_reason) == (8, "length")
    assert isinstance(refused, openai.BadRequestError)
    assert refused.code == "context_length_exceeded"


@pytest.mark.slow
async def test_a_killed_worker_costs_the_begun_answers_and_no_others(
    system: System, client: AsyncOpenAI, ids: Ids
) -> None:
    """Two of four rows each fill the batch; a third has said nothing."""
    form = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]*"}}
    endless = ASKED | {"n": 4, "response_format": form, "stream": True, "max_tokens": 1500}
    endless["logit_bias"] = {str(ids["<|im_end|>"]): -100}
    begun = await asyncio.gather(*(client.chat.completions.create(**endless) for _ in range(2)))
    for stream in begun:
        while not (await anext(stream)).choices[0].delta.content:
            pass
    asked = ASKED | {"n": 4, "response_format": FORM, "max_tokens": 200}
    waiting = asyncio.create_task(client.chat.completions.create(**asked))
    await asyncio.sleep(0.3)
    system.part("worker", THINKER).kill()
    for stream in begun:
        with pytest.raises(openai.APIError, match="worker died"):
            async for _ in stream:
                pass
    for choice in (await waiting).choices:
        jsonschema.validate(json.loads(choice.message.content), PAINT)


async def final(client: AsyncOpenAI, asked: dict[str, Any], stream: bool) -> Any:
    """The answer, put together by the client's own helper if it comes as a stream."""
    if not stream:
        return await client.chat.completions.create(**asked)
    async with client.chat.completions.stream(**asked) as events:
        with suppress(openai.LengthFinishReasonError):  # which the helper raises at the end
            await events.until_done()
        return events.current_completion_snapshot
