"""Chats and completions over HTTP, as far as they are more than text in and text out."""

import json

import httpx
import pytest

from tests.api.asking import CHAT, chat, events
from tests.shared import shapes

COMPLETION = "/v1/completions"
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def completion(prompt: object = "one two", **fields: object) -> dict:
    return {"model": "echo", "prompt": prompt} | fields


def frames(answer: httpx.Response) -> list[dict]:
    assert answer.status_code == 200, answer.text
    *said, end = events(answer.text)
    assert end == {"data": "[DONE]"}
    return [json.loads(each["data"]) for each in said]


def test_a_completion_is_answered(http: httpx.Client) -> None:
    answer = http.post(COMPLETION, json=completion(["a b", "c"], n=2, echo=True, logprobs=1))
    whole = shapes.completion(answer.json())
    assert [(each.index, each.text) for each in whole.choices] == [
        (0, "a b a b"), (1, "a b a b"), (2, "c c"), (3, "c c")
    ]
    assert whole.choices[0].logprobs.tokens == ["a", " b", " a", " b"]
    assert answer.json()["choices"][0]["logprobs"]["token_logprobs"] == [None, 0.0, 0.0, 0.0]
    assert answer.headers["x-job-id"].startswith("job-")


def test_a_completion_is_streamed(http: httpx.Client) -> None:
    *chunks, usage = frames(http.post(COMPLETION, json=completion(["a b", "c"], **USAGE)))
    texts = ["", ""]
    for chunk in chunks:
        [choice] = shapes.completion(chunk).choices
        texts[choice.index] += choice.text
    assert texts == [" a b", " c"]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 3)


def test_a_completion_is_a_job_like_any_other(http: httpx.Client) -> None:
    body = completion("a b", logprobs=2)
    answer = http.post(COMPLETION, json=body)
    result = http.get(f"/v1/jobs/{answer.headers['x-job-id']}/result")
    assert result.content == answer.content
    job = http.post("/v1/jobs", json={"endpoint": COMPLETION, "body": body}).json()
    assert job["endpoint"] == COMPLETION


def test_choices_come_in_order_whole_and_streamed(http: httpx.Client) -> None:
    asked = chat("a b", n=3, logprobs=True, top_logprobs=2)
    whole = shapes.chat(http.post(CHAT, json=asked).json())
    assert [(each.index, each.message.content) for each in whole.choices] == [(n, "a b") for n in range(3)]
    assert [len(each.top_logprobs) for each in whole.choices[2].logprobs.content] == [2, 2]

    texts = ["", "", ""]
    for chunk in frames(http.post(CHAT, json=asked | {"stream": True})):
        [choice] = shapes.chat_chunk(chunk).choices
        texts[choice.index] += choice.delta.content or ""
    assert texts == ["a b"] * 3


def test_calls_come_whole_and_streamed(http: httpx.Client) -> None:
    script = {"think": "hm", "call": {"arguments": {"word": "a longer text"}}}
    asked = chat("a", tools=TOOLS, script=script)
    [choice] = shapes.chat(http.post(CHAT, json=asked).json()).choices
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content, choice.message.reasoning_content) == (
        "tool_calls", None, "hm"
    )
    assert json.loads(call.function.arguments) == {"word": "a longer text"}

    chunks = [shapes.chat_chunk(chunk) for chunk in frames(http.post(CHAT, json=asked | {"stream": True}))]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    parts = [part for delta in deltas for part in delta.tool_calls or ()]
    assert "".join(part.function.arguments for part in parts) == call.function.arguments
    assert [part.id for part in parts if part.id] == [parts[0].id]


@pytest.mark.parametrize(
    ("endpoint", "fields", "param", "code"),
    [
        (CHAT, {"tools": TOOLS, "tool_choice": {"type": "custom"}}, "tool_choice.type", "unsupported_value"),
        (CHAT, {"tool_choice": "required"}, "tool_choice", "invalid_value"),
        (CHAT, {"response_format": {"type": "json_object"}}, "response_format.type", "unsupported_value"),
        (CHAT, {"top_logprobs": 1}, "top_logprobs", "invalid_value"),
        (COMPLETION, {"prompt": []}, "prompt", "invalid_value"),
        (COMPLETION, {"prompt": None}, "prompt", "invalid_value"),
        (COMPLETION, {"suffix": "end"}, "suffix", "unsupported_value"),
        (COMPLETION, {"prompt": "word " * 200_000}, "prompt", "context_length_exceeded"),
    ],
)
def test_what_is_refused_is_named(
    http: httpx.Client, endpoint: str, fields: dict, param: str, code: str
) -> None:
    good = chat() if endpoint == CHAT else completion()
    answer = http.post(endpoint, json=good | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


def test_json_that_is_nested_too_deeply_is_refused(http: httpx.Client) -> None:
    deep = "[" * 1000 + "]" * 1000
    fields = f'"tools": [{{"type": "function", "function": {{"name": "f", "parameters": {{"x": {deep}}}}}}}]'
    body = json.dumps(chat())[:-1] + f", {fields}}}"
    answer = http.post(CHAT, content=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")


def test_a_model_says_that_it_completes(http: httpx.Client) -> None:
    models = http.get("/v1/models").json()["data"]
    endpoints = {model["id"]: model["endpoints"] for model in models}
    assert {COMPLETION, CHAT} <= set(endpoints["echo"])
