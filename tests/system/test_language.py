"""Chats and completions of a real model through the official client: what a request says is what it gets."""

import asyncio
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.system.asking import GREEDY, LLM, NEVER_ENDING, hear, user
from tests.system.conftest import ROWS, System
from tests.system.own import Own

pytestmark = pytest.mark.models

STORY = user("Tell me a story.")
CHAT = {"model": LLM, "messages": STORY}
OTHERS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "logprobs": True, "top_logprobs": 5},
    {"temperature": 0.3, "seed": 7},
    {"temperature": 2, "seed": 1},
    {"top_p": 0.5},
    {"top_p": 0.9, "seed": 8, "presence_penalty": 1.5},
    {"frequency_penalty": 1, "seed": 9},
    {"logprobs": True},
    {"extra_body": {"top_k": 5}},
    {"extra_body": {"top_k": 40, "min_p": 0.05}},
    {"extra_body": {"min_p": 0.2}, "temperature": 1.5},
    {"extra_body": {"repetition_penalty": 1.3}},
    {"response_format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z ]+"}}},
    {"stop": ["zebra", "\n\n\n\n"]},
    {"seed": 7, "messages": user("Tell me a fable.")},
    {},
]
SPELLED = "Zürich, 東京 and 😀: done"
EXACTLY = {"type": "grammar", "grammar": {"syntax": "regex", "definition": SPELLED}}


async def say(client: AsyncOpenAI, **fields: Any) -> str:
    answer = await client.chat.completions.create(**CHAT | fields)
    return answer.choices[0].message.content


def running(system: System) -> int:
    query = {"status": "in_progress", "model": LLM, "limit": 100}
    return len(httpx.get(f"{system.url}/v1/jobs", params=query).json()["data"])


async def test_a_seed_says_the_same_alone_and_among_sixteen_others(
    system: System, client: AsyncOpenAI
) -> None:
    asked = {"seed": 7, "temperature": 1, "max_tokens": 20}
    alone, another = await say(client, **asked), await say(client, **asked | {"seed": 8})
    endless = {"stream": True, "max_tokens": 400, "logit_bias": NEVER_ENDING}
    others = await asyncio.gather(
        *(client.chat.completions.create(**CHAT | endless | fields) for fields in OTHERS)
    )
    await asyncio.gather(*(anext(stream) for stream in others))
    stream = await client.chat.completions.create(**CHAT | asked, stream=True)
    chunks = [await anext(stream)]
    beside = running(system)
    chunks += [chunk async for chunk in stream]
    for each in others:
        await each.close()

    assert beside == ROWS == len(OTHERS) + 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == alone
    assert another != alone


@pytest.mark.slow
async def test_four_choices_are_four_answers_whole_and_streamed(client: AsyncOpenAI) -> None:
    asked = CHAT | {"seed": 3, "temperature": 1, "max_tokens": 16}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    whole, heard, single = await asyncio.gather(
        client.chat.completions.create(**asked, n=4),
        hear(client.chat.completions.create(**asked, **options, n=4), 4),
        say(client, **asked),
    )
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert heard.texts == texts
    assert heard.finish_reasons == [choice.finish_reason for choice in whole.choices]
    assert texts[0] == single
    assert heard.usage.completion_tokens == whole.usage.completion_tokens
    assert heard.usage.prompt_tokens == whole.usage.prompt_tokens < 60  # counted once


@pytest.mark.slow
async def test_choices_of_completions_are_those_of_their_prompts(client: AsyncOpenAI) -> None:
    asked = {"model": LLM, "temperature": 1, "seed": 5, "max_tokens": 8}
    prompts = ["Once upon a time", "The capital of France is"]
    both, *singles = await asyncio.gather(
        client.completions.create(**asked, prompt=prompts, n=2),
        *(client.completions.create(**asked, prompt=prompt, n=2) for prompt in prompts),
    )
    texts = [choice.text for single in singles for choice in single.choices]
    assert [choice.text for choice in both.choices] == texts
    assert len(set(texts)) == 4


@pytest.mark.slow
async def test_a_bias_chooses_and_forbids_tokens_and_penalties_weigh_against_it(
    client: AsyncOpenAI, own: Own
) -> None:
    [yes], [no] = own.tokens("Yes"), own.tokens("No")
    best = own.greedy(own.chat(STORY), 1)[0]
    chosen, both, spread, forbidden = await asyncio.gather(
        say(client, **GREEDY, logit_bias={str(yes): 100}),
        say(client, **GREEDY, logit_bias={str(yes): 100, str(no): 100}),
        say(client, **GREEDY, logit_bias={str(yes): 100, str(no): 100}, frequency_penalty=2),
        client.chat.completions.create(
            **CHAT | GREEDY, logit_bias={str(best): -100}, logprobs=True, top_logprobs=1
        ),
    )
    assert chosen == "Yes" * 16
    assert set(both.replace("Yes", "y").replace("No", "n")) == {both[0].lower()}  # always the likelier one
    assert min(spread.count("Yes"), spread.count("No")) > 4
    first = forbidden.choices[0].logprobs.content[0]
    assert own.tokens(first.top_logprobs[0].token) == [best] != own.tokens(first.token)


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "kept"), [("😀", "Zürich, 東京 and "), (["京 and 😀:", "x"], "Zürich, 東")])
async def test_a_stop_string_may_begin_within_a_token_and_end_within_another(
    client: AsyncOpenAI, stop: Any, kept: str
) -> None:
    asked = {"model": LLM, "temperature": 0, "stop": stop, "extra_body": {"response_format": EXACTLY}}
    chat, completed, streamed = await asyncio.gather(
        client.chat.completions.create(**asked, messages=STORY, max_tokens=60),
        client.completions.create(**asked, prompt="Say:", max_tokens=60),
        hear(client.chat.completions.create(**asked, messages=STORY, max_tokens=60, stream=True)),
    )
    assert chat.choices[0].message.content == completed.choices[0].text == streamed.texts[0] == kept
    reasons = {chat.choices[0].finish_reason, completed.choices[0].finish_reason, *streamed.finish_reasons}
    assert reasons == {"stop"}


@pytest.mark.slow
async def test_characters_of_several_tokens_are_streamed_whole(client: AsyncOpenAI) -> None:
    asked = CHAT | {"temperature": 0, "logprobs": True, "max_tokens": 60, "stream": True}
    heard = await hear(client.chat.completions.create(**asked, response_format=EXACTLY))
    assert heard.texts == [SPELLED]
    assert "\ufffd" not in "".join(heard.pieces) and len(heard.pieces) > 4
    assert bytes(byte for each in heard.logprobs for byte in each.bytes).decode() == SPELLED
    assert len(heard.logprobs) > len(SPELLED) / 2  # some characters are several tokens


@pytest.mark.slow
async def test_a_limit_ends_the_answer_and_the_usage_has_its_details(client: AsyncOpenAI) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    asked = CHAT | {"temperature": 0, "max_completion_tokens": 5}
    whole, heard = await asyncio.gather(
        client.chat.completions.create(**asked),
        hear(client.chat.completions.create(**asked, **options)),
    )
    assert heard.texts == [whole.choices[0].message.content]
    assert heard.finish_reasons == [whole.choices[0].finish_reason] == ["length"]
    for usage in (whole.usage, heard.usage):
        assert (usage.completion_tokens, usage.total_tokens) == (5, usage.prompt_tokens + 5)
        assert usage.completion_tokens_details.reasoning_tokens == 0
        assert usage.prompt_tokens_details.cached_tokens >= 0


@pytest.mark.slow
async def test_what_means_nothing_to_a_model_changes_nothing(client: AsyncOpenAI) -> None:
    plain, *others = await asyncio.gather(
        *(
            say(client, **GREEDY, **fields)
            for fields in (
                {},
                {"reasoning_effort": "high"},
                {"reasoning_effort": "none"},
                {"extra_body": {"chat_template_kwargs": {"enable_thinking": True, "note": "x"}}},
                {"prompt_cache_key": "a", "user": "b", "metadata": {"c": "d"}, "safety_identifier": "e"},
                {"service_tier": "flex"},
                {"n": 1, "tool_choice": "none", "response_format": {"type": "text"}},
            )
        )
    )
    assert others == [plain] * 6


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_over_the_context_is_refused_with_both_numbers(
    client: AsyncOpenAI, own: Own, stream: bool
) -> None:
    messages = user("word " * 9000)
    requests = {
        len(own.chat(messages)): client.chat.completions.create(model=LLM, messages=messages, stream=stream),
        9000: client.completions.create(model=LLM, prompt=[[5], [5] * 9000], stream=stream),
        8192: client.completions.create(model=LLM, prompt=[5] * 8192, stream=stream),
    }
    for tokens, request in requests.items():
        with pytest.raises(openai.BadRequestError) as refused:
            await request
        assert refused.value.code == "context_length_exceeded"
        assert refused.value.param == ("messages" if tokens > 9000 else "prompt")
        assert f"context length is 8192 tokens, but your {refused.value.param}" in str(refused.value)
        assert f" {tokens} tokens" in str(refused.value)
