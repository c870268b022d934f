"""From tokens to events, without a model."""

import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done
from workers.answer import Answer, token_budget
from workers.stops import StopStrings


def tokens(*names: str) -> list[dict]:
    return [{"token": name, "bytes": [*name.encode()], "logprob": -1.0, "top": []} for name in names]


def told(events: list) -> list[str]:
    """The tokens whose log-probabilities the deltas have."""
    deltas = [event for event in events if isinstance(event, Delta)]
    return [each["token"] for delta in deltas for each in (delta.data or {}).get("logprobs", ())]


def header(index: int, name: str) -> dict:
    function = {"name": name, "arguments": ""}
    return {"index": index, "id": f"call-{index}", "type": "function", "function": function}


def arguments(index: int, text: str) -> dict:
    return {"index": index, "function": {"arguments": text}}


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text", "stops", "before"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("abcd", ["abcd", "bc"], "a"),
        ("xbc", ["bc", "xbc"], ""),
        ("aaab", ["aab"], "a"),
        ("abab", ["abc"], "abab"),
        ("ünïcödé", ["cö"], "ünï"),
        ("aaaab", ["aaab"], "a"),
        ("a\n\nb", ["\n\n"], "a"),
        ("ababac", ["abac", "x"], "ab"),
        ("no stop", [], "no stop"),
    ],
)
def test_the_cut_does_not_depend_on_the_pieces(text: str, stops: list[str], before: str, size: int) -> None:
    cutter, said = StopStrings(stops), ""
    for at in range(0, len(text), size):
        if not cutter.hit:
            said += cutter.push(text[at : at + size])
    assert said + cutter.flush() == before


def test_text_is_held_back_only_while_it_may_begin_a_stop_string() -> None:
    cutter = StopStrings(["END"])
    assert [cutter.push(piece) for piece in ("a E", "N", "d E")] == ["a ", "", "ENd "]


def test_what_is_held_back_is_the_longest_end_that_may_go_on() -> None:
    cutter = StopStrings(["aab", "ba"])
    assert [cutter.push(piece) for piece in ("aaa", "a", "c", "b")] == ["a", "a", "aac", ""]


def test_an_answer_ends_once() -> None:
    answer = Answer(prompt_tokens=3, stops=["stop"])
    answer.add("go st")
    assert answer.events() == [Delta("go ", tokens=1)]
    answer.add("op here")
    answer.add("more")
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert answer.events() == [
        Delta(tokens=1),  # so that the tokens of all deltas add up
        Done(
            {"choices": [{"text": "go ", "finish_reason": "stop"}]},
            usage | {"prompt_tokens_details": {"cached_tokens": 0}},
        ),
    ]
    assert answer.ended()
    answer.end("length")
    assert answer.events() == []


def test_held_text_is_said_at_the_end() -> None:
    answer = Answer(1, ["stop"])
    answer.add("a st")
    answer.end("length")
    assert answer.events()[0] == Delta("a st", tokens=1)


def test_nothing_new_is_no_event() -> None:
    answer = Answer(1)
    assert answer.events() == []
    answer.add("")
    assert answer.events() == []
    answer.add("a")
    assert answer.events() == [Delta("a", tokens=2)]
    assert answer.events() == []


def test_what_came_since_the_last_time_is_one_delta_a_choice() -> None:
    answer = Answer(1, choices=3)
    for choice, text in ((2, "a"), (0, "b"), (2, "c")):
        answer.add(text, choice=choice)
    assert answer.events() == [Delta("ac", 2, data={"choice": 2}), Delta("b", 1)]


def test_the_answer_is_done_when_its_last_choice_has_ended() -> None:
    answer = Answer(1, ["!"], choices=2)
    answer.add("a!", choice=1)
    answer.add("b", tokens=2)
    assert (answer.ended(0), answer.ended(1)) == (False, True)
    assert not any(isinstance(event, Done) for event in answer.events())
    answer.end("length")
    [done] = answer.events()
    assert done.result == {
        "choices": [{"text": "b", "finish_reason": "length"}, {"text": "a", "finish_reason": "stop"}]
    }
    assert done.usage["completion_tokens"] == 3


def test_a_stop_string_of_one_choice_holds_nothing_back_of_another() -> None:
    answer = Answer(1, ["end"], choices=2)
    answer.add("en", choice=0)
    answer.add("d", choice=1)
    assert answer.events() == [Delta("d", 1, data={"choice": 1})]


@pytest.mark.parametrize("as_it_comes", [True, False])
def test_the_deltas_add_up_to_the_end(as_it_comes: bool) -> None:
    answer, events = Answer(1, ["END"]), []
    for say in (
        lambda: answer.think("hm", 2),
        lambda: answer.add("a E", 2),
        lambda: answer.call([header(0, "f")], 1),
        lambda: answer.call([arguments(0, "{}")], 1),
        lambda: answer.add("", 1),
        lambda: answer.end("tool_calls"),
    ):
        say()
        events += answer.events() if as_it_comes else []
    *deltas, done = events + answer.events()
    assert "".join(delta.text for delta in deltas) == done.result["choices"][0]["text"] == "a E"
    assert sum(delta.tokens for delta in deltas) == done.usage["completion_tokens"] == 7


def test_reasoning_is_counted_and_no_stop_string_cuts_it() -> None:
    answer = Answer(4, ["b"])
    answer.think("a b", 3)
    assert answer.events() == [Delta(tokens=3, data={"reasoning": "a b"})]
    answer.add("c")
    answer.end("stop")
    done = answer.events()[-1]
    assert done.result["choices"] == [{"text": "c", "finish_reason": "stop", "reasoning": "a b"}]
    assert done.usage["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert done.usage["completion_tokens"] == 4


def test_details_of_the_usage_are_what_the_engine_counts() -> None:
    for reasoning in (None, 0):
        answer = Answer(4)
        answer.reasoning_tokens, answer.cached_tokens = reasoning, 3
        answer.end("stop")
        [done] = answer.events()
        assert done.usage["prompt_tokens_details"] == {"cached_tokens": 3}
        expected = {"reasoning_tokens": 0} if reasoning == 0 else None
        assert done.usage.get("completion_tokens_details") == expected


def test_calls_grow_by_deltas_and_are_whole_at_the_end() -> None:
    answer = Answer(1)
    answer.call([header(0, "f")], 1)
    assert answer.events() == [Delta(tokens=1, data={"tool_calls": [header(0, "f")]})]
    answer.call([arguments(0, '{"a"')], 1)
    answer.call([arguments(0, ": 1}"), header(1, "g")], 2)
    answer.call([arguments(1, "{}")], 1)
    [delta] = answer.events()
    one_each = [arguments(0, '{"a": 1}'), header(1, "g") | {"function": {"name": "g", "arguments": "{}"}}]
    assert (delta.tokens, delta.data) == (4, {"tool_calls": one_each})
    answer.end("tool_calls")
    assert answer.events()[0].result["choices"][0]["tool_calls"] == [
        {"id": "call-0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "call-1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_text_that_was_held_back_is_said_before_a_call() -> None:
    answer = Answer(1, ["END"])
    answer.add("a E")
    answer.call([header(0, "f")], 1)
    [delta] = answer.events()
    assert (delta.text, delta.tokens) == ("a E", 2)


def test_an_echoed_prompt_is_text_that_counts_no_tokens_and_is_not_cut() -> None:
    answer = Answer(2, ["b"])
    answer.echo("a b", logprobs=tokens("a", " b"))
    answer.add(" c", logprobs=tokens(" c"))
    answer.add(" b", logprobs=tokens(" b"))
    events = answer.events()
    assert events[-1].result["choices"] == [{"text": "a b c ", "finish_reason": "stop"}]
    assert events[-1].usage["completion_tokens"] == 2
    assert told(events) == ["a", " b", " c", " b"]


def test_log_probabilities_wait_with_the_text_that_is_held_back() -> None:
    answer, said = Answer(1, ["END"]), []
    for piece in ("a", " E", "N", "x", "b"):
        answer.add(piece, logprobs=tokens(piece))
        said.append(told(answer.events()))
    assert said == [["a"], [], [], [" E", "N", "x"], ["b"]]


def test_log_probabilities_of_what_a_stop_string_cuts_off_are_left_out() -> None:
    answer = Answer(1, ["END"])
    for piece in ("a", "b E", "N", "D and"):
        answer.add(piece, logprobs=tokens(piece))
    events = answer.events()
    assert events[-1].result["choices"][0]["text"] == "ab "
    assert told(events) == ["a", "b E"]  # of which a part was said
    assert events[0].tokens == 4


def test_a_token_that_begins_where_the_text_is_cut_is_left_out() -> None:
    answer = Answer(1, ["END"])
    for piece in ("a", "E", "ND"):
        answer.add(piece, logprobs=tokens(piece))
    assert told(answer.events()) == ["a"]


def test_tokens_without_text_belong_to_the_text_that_completes_them() -> None:
    answer = Answer(1, ["END"])
    answer.add("", logprobs=tokens("half"))
    assert answer.events() == []
    answer.add("é", logprobs=tokens("other half"))
    [delta] = answer.events()
    assert (delta.text, delta.tokens, told([delta])) == ("é", 2, ["half", "other half"])


def test_log_probabilities_that_still_wait_are_told_at_the_end() -> None:
    answer = Answer(1, ["END"])
    answer.add("E", logprobs=tokens("E"))
    answer.add("", logprobs=tokens("half"))
    answer.end("length")
    delta, _ = answer.events()
    assert (delta.text, told([delta])) == ("E", ["E", "half"])


def test_log_probabilities_of_reasoning_and_calls_keep_their_order() -> None:
    answer = Answer(1, ["END"])
    answer.think("hm", 1, logprobs=tokens("hm"))
    answer.add("a E", logprobs=tokens("a E"))
    answer.call([header(0, "f")], 1, logprobs=tokens("f"))
    assert told(answer.events()) == ["hm", "a E", "f"]


def test_the_budget_is_what_the_prompt_leaves() -> None:
    assert token_budget(10, None, 16) == 6
    assert token_budget(10, 4, 16) == 4
    assert token_budget(10, 400, 16) == 6
    with pytest.raises(BadRequest, match="16 tokens.* 16 tokens"):
        token_budget(16, 1, 16)


def test_no_answer_needs_no_room() -> None:
    assert token_budget(16, 0, 16) == token_budget(3, 0, 16) == 0


@pytest.mark.parametrize("param", ["messages", "prompt"])
def test_a_prompt_beyond_the_context_is_named_where_it_is(param: str) -> None:
    with pytest.raises(BadRequest, match=rf"16 tokens.* {param} \w+ 17 tokens") as refused:
        token_budget(17, 0, 16, param)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", param)
