"""Completions of prompts with the official client (OpenAI's legacy endpoint)."""

from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Completion

from tests.live import Live
from tests.openai.asking import script
from tests.shared import shapes


def complete(client: OpenAI, prompt: Any = "one two three", **fields: Any) -> Any:
    return client.completions.create(model="echo", prompt=prompt, **fields)


def texts(stream: Any, count: int = 1) -> list[str]:
    said = [""] * count
    for chunk in stream:
        for choice in chunk.choices:
            said[choice.index] += choice.text
    return said


def test_a_prompt_is_completed(client: OpenAI) -> None:
    answer = complete(client)
    assert isinstance(shapes.completion(answer.to_dict()), Completion)
    [choice] = answer.choices
    assert (answer.object, choice.text, choice.finish_reason) == ("text_completion", " one two three", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert texts(chunks) == [" one two three"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], complete(client).usage)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_sixteen_tokens_unless_more_are_asked_for(client: OpenAI) -> None:
    [short] = complete(client, "word " * 20).choices
    [long] = complete(client, "word " * 20, max_tokens=18).choices
    assert (short.finish_reason, len(short.text.split()), len(long.text.split())) == ("length", 16, 18)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (["a b", "c"], [" a b", " a b", " c", " c"]),
        ([5, 6], [" 5 6", " 5 6"]),
        ([[5, 6], [7]], [" 5 6", " 5 6", " 7", " 7"]),
    ],
)
def test_choices_are_numbered_prompt_by_prompt(client: OpenAI, prompt: list, said: list[str]) -> None:
    answer = complete(client, prompt, n=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == list(enumerate(said))
    assert texts(complete(client, prompt, n=2, stream=True), len(said)) == said


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_comes_first(client: OpenAI, stream: bool) -> None:
    answer = complete(client, echo=True, stop="two", stream=stream)
    said = texts(answer) if stream else [choice.text for choice in answer.choices]
    assert said == ["one two three one "]


def test_logprobs_are_columns_of_the_whole_text(client: OpenAI) -> None:
    [choice] = complete(client, echo=True, logprobs=2).choices
    table = choice.logprobs
    assert "".join(table.tokens) == choice.text == "one two three one two three"
    assert [choice.text[at:].startswith(token) for at, token in zip(
        table.text_offset, table.tokens, strict=True
    )] == [True] * 6  # fmt: skip
    assert (table.token_logprobs[0], table.top_logprobs[0]) == (None, None)
    assert all(
        top[token] == logprob and len(top) == 2
        for token, logprob, top in list(
            zip(table.tokens, table.token_logprobs, table.top_logprobs, strict=True)
        )[1:]
    )


def test_a_text_is_scored_without_being_continued(client: OpenAI) -> None:
    [choice] = complete(client, echo=True, logprobs=0, max_tokens=0).choices
    assert (choice.text, len(choice.logprobs.tokens)) == ("one two three", 3)
    assert choice.logprobs.token_logprobs[0] is None


def test_the_logprobs_of_a_stream_are_those_of_the_whole_answer(client: OpenAI) -> None:
    asked = {"prompt": ["a b", "c"], "echo": True, "logprobs": 1}
    whole = complete(client, **asked)
    for choice in whole.choices:
        tables = [
            each.logprobs
            for chunk in complete(client, **asked, stream=True)
            for each in chunk.choices
            if each.index == choice.index and each.logprobs
        ]
        for column in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            gathered = [value for table in tables for value in getattr(table, column)]
            assert gathered == getattr(choice.logprobs, column)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"suffix": "end"}, "suffix", "unsupported_value"),
        ({"best_of": 3}, "best_of", "unsupported_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    client: OpenAI, fields: dict, param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        complete(client, **fields)
    assert (raised.value.param, raised.value.code) == (param, code)


def test_an_error_in_a_stream_is_raised(client: OpenAI) -> None:
    told = script(tokens=9, hang_at=2, hang_ms=50, fail_at=3)
    with pytest.raises(openai.APIError) as raised:
        list(complete(client, stream=True, extra_body={"metadata": told}))
    assert raised.value.code == "engine_error"


async def test_the_asynchronous_client_completes_whole_and_streamed(live: Live) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "echo", "prompt": ["a b", "c"]}
        whole = await client.completions.create(**asked)
        stream = await client.completions.create(**asked, stream=True)
        said = ["", ""]
        async for chunk in stream:
            for choice in chunk.choices:
                said[choice.index] += choice.text
    assert [choice.text for choice in whole.choices] == said == [" a b", " c"]
