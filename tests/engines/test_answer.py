import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done
from workers.answer import Answer, StopStrings, token_budget


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


def test_an_answer_ends_once() -> None:
    answer = Answer(prompt_tokens=3, stops=["stop"])
    answer.add("go st")
    assert answer.events() == [Delta("go ", tokens=1)]
    answer.add("op here")
    answer.add("more")
    assert answer.events() == [
        Done(
            {"text": "go ", "finish_reason": "stop"},
            {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        )
    ]
    answer.end("length")
    assert answer.events() == []


def test_held_text_is_said_at_the_end() -> None:
    answer = Answer(1, ["stop"])
    answer.add("a st")
    answer.end("length")
    assert answer.events()[0] == Delta("a st", tokens=1)


def test_the_budget_is_what_the_prompt_leaves() -> None:
    assert token_budget(10, None, 16) == 6
    assert token_budget(10, 4, 16) == 4
    assert token_budget(10, 400, 16) == 6
    with pytest.raises(BadRequest, match="16 tokens.* 16 tokens"):
        token_budget(16, 1, 16)
