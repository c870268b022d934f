"""Requests: what is accepted, and which 400 names what."""

import time

import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.tasks import by_endpoint, chat

GOOD = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def spec(task: str = "chat", **params: object) -> JobSpec:
    return JobSpec(id="job-1", task=task, model="m", params=params, created=time.time(), timeout=1.0)


def refusal(**fields: object) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        chat.validate(GOOD | fields)
    return caught.value


def test_every_task_is_found_by_its_endpoint() -> None:
    assert by_endpoint() == {
        "/v1/chat/completions": "chat",
        "/v1/audio/transcriptions": "transcription",
        "/v1/audio/translations": "translation",
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_bad_value_is_a_400_that_names_the_field(fields: dict, param: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.code) == (400, "invalid_value")
    assert error.param.startswith(param) and param in error.message


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat.validate({name: value for name, value in GOOD.items() if name != missing})
    assert (caught.value.param, caught.value.code) == (missing, "missing_required_parameter")


@pytest.mark.parametrize("name", sorted(chat.UNSUPPORTED))
def test_a_known_field_that_is_not_honoured_is_a_400_and_never_dropped(name: str) -> None:
    error = refusal(**{name: {"some": "wish"}})
    assert (error.param, error.code) == (name, "unsupported_value")
    for harmless in (None, *chat.UNSUPPORTED[name]):
        chat.validate(GOOD | {name: harmless})


def test_an_image_is_refused_by_name() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:"}}]
    error = refusal(messages=[{"role": "user", "content": parts}])
    assert (error.param, error.code) == ("messages[0].content[0].type", "unsupported_value")


def test_unknown_fields_are_ignored_as_openai_does() -> None:
    assert chat.validate(GOOD | {"x_new_field": 1}).model == "m"


def test_the_whole_answer_and_the_streamed_one_say_the_same() -> None:
    done = Done({"text": "ab", "finish_reason": "stop"}, {"total_tokens": 3})
    asked = spec(stream_options={"include_usage": True})
    whole = chat.body(asked, [], done)
    stream = chat.Stream(asked)
    chunks = [*stream.delta(Delta("a")), *stream.delta(Delta("b")), *stream.done(done)]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert text == whole["choices"][0]["message"]["content"] == "ab"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == whole["usage"] and chunks[-1]["choices"] == []
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}
