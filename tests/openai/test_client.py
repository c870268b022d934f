"""The official client, as its users use it."""

import openai
import pytest
from openai import OpenAI

from tests.live import Live
from tests.openai.asking import MESSAGES, script


def test_a_whole_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=MESSAGES)

    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_answer_with_its_usage(client: OpenAI) -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(
        model="echo", messages=MESSAGES, stream=True, stream_options=options
    ))

    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "one two three"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 3)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_the_token_limit_ends_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=MESSAGES, max_completion_tokens=2)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two", "length")


@pytest.mark.parametrize(
    ("changes", "kind", "code", "param"),
    [
        ({"temperature": 9}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"store": True}, openai.BadRequestError, "unsupported_value", "store"),
        ({"n": 0}, openai.BadRequestError, "invalid_value", "n"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"model": "nope"}, openai.NotFoundError, "model_not_found", "model"),
        ({"metadata": script(raise_in="prepare")}, openai.InternalServerError, "engine_error", None),
        ({"model": "unserved"}, openai.InternalServerError, "model_unavailable", None),
    ],
)
def test_errors_are_the_clients_own_exceptions(
    client: OpenAI, changes: dict, kind: type[openai.APIStatusError], code: str, param: str | None
) -> None:
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**{"model": "echo", "messages": MESSAGES} | changes)

    assert (raised.value.code, raised.value.param) == (code, param)
    assert raised.value.request_id


def test_an_error_in_a_stream_is_raised(client: OpenAI) -> None:
    told = script(tokens=9, hang_at=2, hang_ms=50, fail_at=3)
    stream = client.chat.completions.create(model="echo", messages=MESSAGES, stream=True, metadata=told)
    with pytest.raises(openai.APIError) as raised:
        list(stream)

    assert raised.value.code == "engine_error"


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert "echo" in [model.id for model in client.models.list()]
    assert client.models.retrieve("echo").owned_by == "ominix"
    assert client.models.retrieve("org/echo-repo").id == "echo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_the_raw_answer_has_the_ids(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="echo", messages=MESSAGES, extra_headers={"x-request-id": "trace-1"}
    )
    assert raw.headers["x-request-id"] == raw.parse()._request_id == "trace-1"
    assert raw.headers["x-job-id"].startswith("job-")


def test_a_timeout_of_the_client_ends_the_work(client: OpenAI, live: Live) -> None:
    told = script(hang_at=2, hang_ms=500)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(
            model="echo", messages=MESSAGES, metadata=told
        )


def test_a_retry_after_is_what_the_client_waits_for(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    patient = client.with_options(max_retries=1)
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(openai.InternalServerError):
        patient.chat.completions.create(model="unserved", messages=MESSAGES)

    assert waits == [5.0]


async def test_the_asynchronous_client(live: Live) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(model="echo", messages=MESSAGES, stream=True)
        text = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(text) == "one two three"
