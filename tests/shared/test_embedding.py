"""Requests for embeddings, and the answer that their events make."""

import array
import base64
import struct

import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done, decode, encode
from shared.jobs import JobSpec
from shared.tasks import by_endpoint, embedding

GOOD = {"model": "m", "input": "hi"}
USAGE = {"prompt_tokens": 3, "total_tokens": 3}


def refusal(**fields: object) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        embedding.validate(GOOD | fields)
    return caught.value


def spec(**params: object) -> JobSpec:
    return JobSpec(id="job-1", task="embedding", model="m", params=GOOD | params, created=0, timeout=1)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def test_the_task_is_found_by_its_endpoint() -> None:
    assert by_endpoint()["/v1/embeddings"] == "embedding"


@pytest.mark.parametrize(
    ("input", "inputs"),
    [
        ("a text", ["a text"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (list(range(3000)), [list(range(3000))]),
    ],
)
def test_each_text_and_each_list_of_token_ids_is_one_input(input: object, inputs: list) -> None:
    assert embedding.validate(GOOD | {"input": input}).inputs == inputs


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": ""}, "input", "must not be empty"),
        ({"input": []}, "input", "must not be empty"),
        ({"input": ["a", ""]}, "input", r"'input[1]' must not be empty"),
        ({"input": [[1], []]}, "input", r"'input[1]' must not be empty"),
        ({"input": ["a", 1]}, "input", "mixture"),
        ({"input": [[1], 2]}, "input", "mixture"),
        ({"input": ["a"] * 2049}, "input", "at most 2048 texts; this request has 2049"),
        ({"input": {"text": "a"}}, "input", "input"),
        ({"input": [-1]}, "input[0]", ">= 0"),
        ({"input": [1.5]}, "input[0]", "float"),
        ({"input": [True]}, "input[0]", "bool"),
        ({"dimensions": 0}, "dimensions", ">= 1"),
        ({"encoding_format": "int8"}, "encoding_format", "int8"),
        ({"user": 7}, "user", "str"),
    ],
)
def test_a_bad_value_is_a_400_that_names_the_field(fields: dict, param: str, words: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    assert words in error.message


@pytest.mark.parametrize("missing", ["model", "input"])
def test_a_missing_field_is_named(missing: str) -> None:
    with pytest.raises(BadRequest) as caught:
        embedding.validate({name: value for name, value in GOOD.items() if name != missing})
    assert (caught.value.param, caught.value.code) == (missing, "missing_required_parameter")


def test_fields_that_openai_does_not_have_are_ignored_and_nothing_is_streamed() -> None:
    assert embedding.validate(GOOD | {"stream": True, "service_tier": "flex", "x": 1}).stream is False


def test_what_nobody_waits_for_goes_to_the_batch_lane() -> None:
    request = embedding.validate(GOOD)
    assert (embedding.lane(request, False), embedding.lane(request, True)) == ("interactive", "batch")


def test_the_answer_is_in_the_order_of_the_inputs_whatever_that_of_the_events() -> None:
    said = [
        *embedding.deltas([2, 0], [floats(0.5, -2), floats(1, 0)], 0.6),
        *embedding.deltas([1], [floats(0.25, 3)], 1.0),
    ]
    said = [decode(encode(delta)) for delta in said]  # as it comes back from Redis
    answer = embedding.body(spec(), said, Done({"count": 3}, USAGE))
    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0, 0.0]},
            {"object": "embedding", "index": 1, "embedding": [0.25, 3.0]},
            {"object": "embedding", "index": 2, "embedding": [0.5, -2.0]},
        ],
        "model": "m",
        "usage": USAGE,
    }


def test_base64_is_that_of_little_endian_floats() -> None:
    said = embedding.deltas([0], [floats(1, -0.5, 3e-5)], 1.0)
    answer = embedding.body(spec(encoding_format="base64"), said, Done({"count": 1}, USAGE))
    raw = base64.b64decode(answer["data"][0]["embedding"])
    assert raw == floats(1, -0.5, 3e-5)
    whole = embedding.body(spec(), said, Done({"count": 1}, USAGE))["data"][0]["embedding"]
    assert array.array("f", whole) == array.array("f", [1, -0.5, 3e-5])


@pytest.mark.parametrize("dimensions", [1, 8, 384, 1024, 8192])
def test_many_vectors_are_split_into_events_that_an_entry_holds(dimensions: int) -> None:
    count = 2048 if dimensions < 500 else 50
    rows = [floats(*[index] * dimensions) for index in range(count)]
    said = embedding.deltas(range(count), rows, 0.5)
    assert max(len(encode(delta)) for delta in said) <= 65_536
    assert all(isinstance(delta, Delta) and delta.progress == 0.5 for delta in said)
    assert list(embedding.vectors(said)) == list(enumerate(rows))
