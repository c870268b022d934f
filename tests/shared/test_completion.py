"""Completions of prompts: which 400 names what, and the shapes of the answer."""

import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.tasks import completion
from tests.shared import shapes

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def asked(**fields: object) -> completion.Request:
    return completion.validate({"model": "m", "prompt": "hi"} | fields)


def refusal(**fields: object) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        asked(**fields)
    return caught.value


def spec(**params: object) -> JobSpec:
    params = {"model": "m", "prompt": "hi"} | params
    return JobSpec(id="job-1", task="completion", model="m", params=params, created=1.5, timeout=1.0)


def scored(token: str | bytes, logprob: float | None = -0.5, **top: float) -> dict:
    raw = token.encode() if isinstance(token, str) else token
    name = raw.decode(errors="replace")
    likely = [{"token": each, "bytes": [*each.encode()], "logprob": value} for each, value in top.items()]
    return {"token": name, "bytes": [*raw], "logprob": logprob, "top": likely}


def choice(text: str, finish_reason: str = "stop") -> dict:
    return {"text": text, "finish_reason": finish_reason}


def legacy(*tokens: dict) -> dict:
    """The columns of one choice that these tokens have."""
    done = Done({"choices": [choice("")]}, USAGE)
    said = [Delta("x", data={"logprobs": list(tokens)})]
    answer = completion.body(spec(logprobs=1), said, done)
    shapes.completion(answer)
    return answer["choices"][0]["logprobs"]


# --- what is accepted


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", ["hi"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([0, 5, 5], [[0, 5, 5]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["a"] * 2048, ["a"] * 2048),
    ],
)
def test_every_form_of_a_prompt_is_a_list_of_prompts(prompt: object, prompts: list) -> None:
    assert asked(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [1, -1]}, "prompt[1]"),
        ({"prompt": [[1], [-1]]}, "prompt[1][0]"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": [[["a"]]]}, "prompt[0][0]"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"prompt": ["a"] * 17, "n": 128}, "n"),
        ({"echo": "yes"}, "echo"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"best_of": 0}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": False}, "max_tokens"),
        ({"max_tokens": -1, "echo": True}, "max_tokens"),
    ],
)
def test_a_bad_value_is_a_400_that_names_the_field(fields: dict, param: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    assert param.partition("[")[0] in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"suffix": "x"}, "suffix"), ({"best_of": 2}, "best_of"), ({"best_of": 2, "n": 3}, "best_of")],
)
def test_what_is_not_served_is_refused_by_name(fields: dict, param: str) -> None:
    error = refusal(**fields)
    assert (error.param, error.code) == (param, "unsupported_value")


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["a"] * 16, "n": 128},
        {"best_of": 1},
        {"best_of": 3, "n": 3},
        {"best_of": 1, "n": 3},
        {"suffix": ""},
        {"echo": True, "logprobs": 1, "max_tokens": 0},
        {"logprobs": 0},
        {"logprobs": 20},
    ],
)
def test_what_evaluation_tools_send_is_accepted(fields: dict) -> None:
    asked(**fields)


def test_an_answer_is_16_tokens_long_unless_the_request_says_otherwise() -> None:
    limits = [{}, {"max_tokens": None}, {"max_tokens": 3}, {"max_tokens": 0, "echo": True}]
    assert [asked(**limit).token_limit for limit in limits] == [16, 16, 3, 0]


# --- what is answered


def test_the_whole_answer_and_the_streamed_one_say_the_same() -> None:
    asked = spec(n=2, stream_options={"include_usage": True})
    done = Done({"choices": [choice("ab"), choice("c", "length")]}, USAGE)
    whole = shapes.completion(completion.body(asked, [], done))
    stream = completion.Stream(asked)
    events = (Delta("a"), Delta("c", data={"choice": 1}), Delta("b"))
    chunks = [frame for event in events for frame in stream.delta(event)] + stream.done(done)

    texts = ["", ""]
    for chunk in chunks[:-1]:
        [each] = shapes.completion(chunk).choices
        texts[each.index] += each.text
    assert texts == [each.text for each in whole.choices] == ["ab", "c"]
    ends = [(c["index"], c["finish_reason"]) for chunk in chunks for c in chunk["choices"]]
    assert [end for end in ends if end[1]] == [(0, "stop"), (1, "length")]
    assert chunks[-1]["usage"] == USAGE and chunks[-1]["choices"] == []
    assert {(chunk["id"], chunk["object"]) for chunk in chunks} == {("cmpl-1", "text_completion")}


def test_a_delta_that_only_counts_tokens_is_no_chunk() -> None:
    assert completion.Stream(spec()).delta(Delta(tokens=1)) == []


def test_log_probabilities_are_columns_with_the_place_of_each_token() -> None:
    likely = {" 2": -0.1, " two": -0.25}
    table = legacy(scored("Ün", None), scored(" two", -0.25, **likely), scored("!", -3.0))
    assert table == {
        "text_offset": [0, 2, 6],
        "token_logprobs": [None, -0.25, -3.0],
        "tokens": ["Ün", " two", "!"],
        "top_logprobs": [None, likely, {"!": -3.0}],
    }


def test_the_chosen_token_is_always_among_the_likely_ones() -> None:
    assert legacy(scored("c", -9.0, a=-0.1, b=-0.2))["top_logprobs"] == [{"a": -0.1, "b": -0.2, "c": -9.0}]


def test_tokens_that_are_no_whole_character_are_written_as_bytes() -> None:
    dash = "–".encode()
    table = legacy(scored("a"), scored(dash[:2]), scored(dash[2:]), scored("b"))
    assert table["tokens"] == ["a", "bytes:\\xe2\\x80", "bytes:\\x93", "b"]
    assert table["text_offset"] == [0, 1, 1, 2]
    assert list(table["top_logprobs"][1]) == ["bytes:\\xe2\\x80"]


def test_places_go_on_from_chunk_to_chunk_of_a_choice() -> None:
    stream = completion.Stream(spec(n=2, logprobs=0))
    events = [Delta(text, data={"logprobs": [scored(text)]}) for text in ("ab", "cde")]
    events.insert(1, Delta("x", data={"logprobs": [scored("x")], "choice": 1}))
    events.append(Delta("f", data={"logprobs": [scored("f")]}))
    frames = [frame["choices"][0] for event in events for frame in stream.delta(event)]
    assert [(each["index"], each["logprobs"]["text_offset"]) for each in frames] == [
        (0, [0]), (1, [0]), (0, [2]), (0, [5])
    ]


@pytest.mark.parametrize(("asked", "told"), [({}, False), ({"logprobs": 0}, True), ({"logprobs": 5}, True)])
def test_log_probabilities_are_told_to_those_who_ask(asked: dict, told: bool) -> None:
    event = Delta("a", data={"logprobs": [scored("a")]})
    whole = completion.body(spec(**asked), [event], Done({"choices": [choice("a")]}, USAGE))
    [chunk] = completion.Stream(spec(**asked)).delta(event)
    for answer in (whole, chunk):
        assert (answer["choices"][0]["logprobs"] is not None) == told
