"""Chats with the official client: choices, stop strings, log-probabilities, reasoning, streams."""

import math
from typing import Literal

import openai
import pytest
from openai import OpenAI
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob
from pydantic import BaseModel, Field

from tests.live import Live
from tests.openai.asking import MESSAGES, chat, script
from tests.shared import shapes


class Answer(BaseModel):
    city: str
    degrees: int = Field(ge=-90, le=60)
    sky: Literal["clear", "grey"]


FOUND = '{"city": "Oslo", "degrees": 3, "sky": "grey"}'


def test_every_choice_is_a_whole_answer(client: OpenAI) -> None:
    answer = shapes.chat(chat(client, n=4).to_dict())
    assert [(each.index, each.message.content, each.finish_reason) for each in answer.choices] == [
        (index, "one two three", "stop") for index in range(4)
    ]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 12)


def test_choices_of_a_stream_are_told_apart_by_their_index(client: OpenAI) -> None:
    texts, ends = [""] * 4, []
    for chunk in chat(client, n=4, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
    assert texts == ["one two three"] * 4
    assert sorted(ends) == [0, 1, 2, 3]


@pytest.mark.parametrize("stop", ["two", ["never", "two"]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(client: OpenAI, stop, stream: bool) -> None:
    answer = chat(client, stop=stop, stream=stream)
    if stream:
        said = [chunk.choices[0] for chunk in answer]
        text, end = "".join(each.delta.content or "" for each in said), said[-1].finish_reason
    else:
        text, end = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (text, end) == ("one ", "stop")


def test_sampling_fields_of_the_client_are_taken(client: OpenAI) -> None:
    fields = {"seed": 7, "temperature": 0.5, "top_p": 0.9, "presence_penalty": 1, "frequency_penalty": -1}
    named = {"user": "ann", "service_tier": "flex", "safety_identifier": "a", "prompt_cache_key": "k"}
    ours = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}
    answer = chat(client, **fields, **named, logit_bias={"1": -100}, store=False, extra_body=ours)
    assert (answer.choices[0].message.content, answer.service_tier) == ("one two three", "flex")


def test_logprobs_have_the_likeliest_tokens(client: OpenAI) -> None:
    [choice] = shapes.chat(chat(client, logprobs=True, top_logprobs=3).to_dict()).choices
    scored = choice.logprobs.content
    assert "".join(each.token for each in scored) == choice.message.content
    assert [bytes(each.bytes).decode() for each in scored] == [each.token for each in scored]
    for each in scored:
        assert isinstance(each, ChatCompletionTokenLogprob)
        assert each.top_logprobs[0].logprob == each.logprob <= 0 < math.exp(each.logprob)
        assert len(each.top_logprobs) == 3


def test_the_logprobs_of_a_stream_are_those_of_the_whole_answer(client: OpenAI) -> None:
    asked = {"n": 2, "logprobs": True, "top_logprobs": 2}
    scored: list[list] = [[], []]
    for chunk in chat(client, stream=True, **asked):
        for choice in chunk.choices:
            scored[choice.index] += choice.logprobs.content if choice.logprobs else []
    assert scored == [choice.logprobs.content for choice in chat(client, **asked).choices]


def test_no_logprobs_unless_asked_for(client: OpenAI) -> None:
    assert chat(client).choices[0].logprobs is None


@pytest.mark.parametrize("with_usage", [True, False])
def test_the_usage_ends_a_stream_that_asks_for_it(client: OpenAI, with_usage: bool) -> None:
    chunks = list(chat(client, n=2, stream=True, stream_options={"include_usage": with_usage}))
    for chunk in chunks:
        shapes.chat_chunk(chunk.to_dict())
    told = [chunk.usage for chunk in chunks if chunk.usage]
    assert told == ([chat(client, n=2).usage] if with_usage else [])


def test_reasoning_comes_before_the_answer(client: OpenAI) -> None:
    asked = {"metadata": script(think="first this then that")}
    message = chat(client, **asked).choices[0].message
    assert (message.reasoning_content, message.content) == ("first this then that", "one two three")

    deltas = [chunk.choices[0].delta for chunk in chat(client, stream=True, **asked)]
    thoughts = [getattr(each, "reasoning_content", "") for each in deltas]
    kinds = ["answer" if each.content else "thought" for each in deltas if each.content or each.model_extra]
    assert "".join(thoughts) == message.reasoning_content
    assert kinds == sorted(kinds, reverse=True)


def test_the_stream_helper_gathers_reasoning_and_content(client: OpenAI) -> None:
    asked = {"model": "echo", "messages": MESSAGES, "n": 2, "metadata": script(think="hm hm", tokens=4)}
    with client.chat.completions.stream(**asked) as stream:
        kinds = [event.type for event in stream if event.type != "chunk"]
        final = stream.get_final_completion()
    assert (set(kinds), kinds.count("content.done")) == ({"content.delta", "content.done"}, 2)
    assert [choice.message.content for choice in final.choices] == ["one two three one"] * 2
    assert [choice.message.reasoning_content for choice in final.choices] == ["hm hm"] * 2


def test_the_stream_helper_gathers_logprobs(client: OpenAI) -> None:
    asked = {"model": "echo", "messages": MESSAGES, "logprobs": True}
    with client.chat.completions.stream(**asked) as stream:
        events = [event for event in stream if event.type == "logprobs.content.done"]
    [done] = events
    assert [each.token for each in done.content] == ["one", " two", " three"]


def test_an_answer_is_parsed_into_a_model(client: OpenAI) -> None:
    asked = {"model": "echo", "messages": MESSAGES, "metadata": script(text=FOUND), "response_format": Answer}
    parsed = client.chat.completions.parse(**asked).choices[0].message.parsed
    assert parsed == Answer(city="Oslo", degrees=3, sky="grey")

    with client.chat.completions.stream(**asked) as stream:
        grown = [event.parsed for event in stream if event.type == "content.delta" and event.parsed]
        assert stream.get_final_completion().choices[0].message.parsed == parsed
    assert [list(each) for each in grown][-1] == ["city", "degrees", "sky"]


def test_a_parsed_answer_that_was_cut_off_is_the_clients_own_error(client: OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="echo", messages=MESSAGES, metadata=script(text=FOUND), response_format=Answer, max_tokens=2
        )


async def test_the_asynchronous_client_asks_and_streams_at_once(live: Live) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "echo", "messages": MESSAGES, "n": 2}
        whole = await client.chat.completions.create(**asked)
        parsed = await client.chat.completions.parse(
            **asked, response_format=Answer, metadata=script(text=FOUND)
        )
        async with client.chat.completions.stream(**asked) as stream:
            kinds = [event.type async for event in stream if event.type == "content.done"]
            final = await stream.get_final_completion()
    assert [each.message.content for each in whole.choices] == ["one two three"] * 2
    assert [each.message.parsed.degrees for each in parsed.choices] == [3, 3]
    assert [each.message.content for each in final.choices] == ["one two three"] * 2
    assert len(kinds) == 2
