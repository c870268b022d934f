"""What every task promises, and what the requests for text have in common."""

from types import ModuleType

import msgspec
import pytest

from shared.errors import BadRequest
from shared.tasks import by_endpoint, chat, completion, tasks

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


@pytest.fixture(params=[(chat, CHAT), (completion, COMPLETION)], ids=["chat", "completion"])
def asked(request: pytest.FixtureRequest) -> tuple[ModuleType, dict]:
    return request.param


def refusal(asked: tuple[ModuleType, dict], **fields: object) -> BadRequest:
    task, good = asked
    with pytest.raises(BadRequest) as caught:
        task.validate(good | fields)
    return caught.value


def test_every_task_is_found_by_its_endpoint() -> None:
    found = by_endpoint()
    assert found["/v1/chat/completions"] == "chat"
    assert found["/v1/completions"] == "completion"
    assert found["/v1/audio/transcriptions"] == "transcription"
    assert found["/v1/audio/translations"] == "translation"
    assert sorted(found.values()) == sorted(tasks())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 7}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
        ({"service_tier": "first"}, "service_tier"),
        ({"user": 1}, "user"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"prompt_cache_key": 1}, "prompt_cache_key"),
        ({"prompt_cache_key": "k" * 513}, "prompt_cache_key"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
         "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "grammar", "grammar": {"syntax": "ebnf", "definition": "a"}}},
         "response_format.grammar.syntax"),
        ({"response_format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": ""}}},
         "response_format.grammar.definition"),
    ],
)
def test_a_bad_value_is_a_400_that_names_the_field(asked: tuple, fields: dict, param: str) -> None:
    error = refusal(asked, **fields)
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    assert param.partition("[")[0] in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "grammar"}}, "response_format.grammar"),
    ],
)
def test_a_part_that_is_missing_is_named(asked: tuple, fields: dict, param: str) -> None:
    error = refusal(asked, **fields)
    assert (error.param, error.code) == (param, "missing_required_parameter")


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"007": -100, "151935": 1.5}},
        {"logit_bias": {}},
        {"stop": []},
        {"stop": ["a", "b", "c", "d"]},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {
            "name": "a", "schema": {"type": "array"}, "strict": True, "description": "d"}}},
        {"response_format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"stream": True, "stream_options": {"include_usage": None}},
        {"service_tier": "priority", "prompt_cache_key": "k", "user": "u", "metadata": {}},
        {"n": 128, "top_k": 0, "seed": -(2**63)},
    ],
)
def test_what_is_allowed_comes_through_a_queue_unchanged(asked: tuple, fields: dict) -> None:
    task, good = asked
    request = task.validate(good | fields)
    sent = msgspec.json.encode(msgspec.to_builtins(request))
    assert msgspec.convert(msgspec.json.decode(sent), task.Request) == request


def test_null_asks_for_nothing(asked: tuple) -> None:
    task, good = asked
    nulls = {name: None for name in task.Request.__struct_fields__ if name not in good}
    assert task.validate(good | nulls | dict.fromkeys(task.UNSUPPORTED)) == task.validate(good)


def test_a_known_field_that_is_not_honoured_is_a_400_and_never_dropped(asked: tuple) -> None:
    task, good = asked
    for name, harmless in task.UNSUPPORTED.items():
        error = refusal(asked, **{name: {"some": "wish"}})
        assert (error.param, error.code) == (name, "unsupported_value")
        for value in harmless:
            task.validate(good | {name: value})


def test_padding_of_chunks_is_not_promised(asked: tuple) -> None:
    error = refusal(asked, stream=True, stream_options={"include_obfuscation": True})
    assert (error.param, error.code) == ("stream_options.include_obfuscation", "unsupported_value")


@pytest.mark.parametrize("missing", ["model", "messages", "prompt"])
def test_a_missing_field_is_named(missing: str) -> None:
    task, good = (completion, COMPLETION) if missing == "prompt" else (chat, CHAT)
    with pytest.raises(BadRequest) as caught:
        task.validate({name: value for name, value in good.items() if name != missing})
    assert (caught.value.param, caught.value.code) == (missing, "missing_required_parameter")


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_what_is_no_object_is_refused(asked: tuple, body: object) -> None:
    with pytest.raises(BadRequest, match="JSON object"):
        asked[0].validate(body)


def test_json_that_is_nested_too_deeply_is_refused(asked: tuple) -> None:
    deep: list = []
    for _ in range(900):
        deep = [deep]
    format = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"x": deep}}}
    assert refusal(asked, response_format=format).param == "response_format"


def test_unknown_fields_are_ignored_as_openai_does(asked: tuple) -> None:
    task, good = asked
    assert task.validate(good | {"x_new_field": 1}) == task.validate(good)


def test_only_flex_waits_behind_the_others(asked: tuple) -> None:
    task, good = asked
    tiers = (None, "auto", "default", "flex", "scale", "priority", "fast")
    lanes = {tier: task.lane(task.validate(good | {"service_tier": tier}), detached=True) for tier in tiers}
    assert {tier for tier, lane in lanes.items() if lane == "batch"} == {"flex"}


def test_the_stop_strings_are_a_list_however_they_are_spelled(asked: tuple) -> None:
    task, good = asked
    spelled = [task.validate(good | {"stop": stop}).stop_strings for stop in (None, "a", ["a", "b"])]
    assert spelled == [[], ["a"], ["a", "b"]]
