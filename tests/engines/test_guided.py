"""Calls of tools that a grammar guides, and grammars that wait for the end of the reasoning."""

import json
import re
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import BadRequest
from tests.engines.formats import BAD, TOOLS, WEATHER, asked, check, schema, tool
from tests.engines.walking import Walker, allowed, small_tokenizer, texts, walk
from workers.engines.llm import calls
from workers.engines.llm.constraint import Constraint, Masks
from workers.engines.llm.grammar import MAX_CALLS, Grammars

# --- calls


def check_calls(text: str, names: set[str]) -> int:
    """Every call is one of a tool; how many there are."""
    said = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text)
    assert "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in said) == text
    for each in map(json.loads, said):
        assert each["name"] in names
        check(each["arguments"], WEATHER if each["name"] == "get_weather" else {"type": "object"})
        assert each["name"] != "get_time" or each["arguments"] == {}
    return len(said)


@pytest.mark.models
def test_a_required_call_is_one_or_more_of_the_tools(grammars: Grammars, tokenizer: TokenizerWrapper) -> None:
    said = texts(grammars, tokenizer, asked(tools=TOOLS, tool_choice="required"), count=8)
    counts = [check_calls(text, {"get_weather", "get_time", "anything"}) for text in said]
    assert max(counts) > 1
    assert all(1 <= count <= MAX_CALLS for count in counts)


@pytest.mark.models
@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required", "parallel_tool_calls": False},
        {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    ],
)
def test_a_named_call_or_one_that_may_not_be_parallel_is_one(
    grammars: Grammars, tokenizer: TokenizerWrapper, fields: dict[str, Any]
) -> None:
    names = (
        {"get_weather"}
        if isinstance(fields["tool_choice"], dict)
        else {"get_weather", "get_time", "anything"}
    )
    for text in texts(grammars, tokenizer, asked(tools=TOOLS, **fields), count=8):
        assert check_calls(text, names) == 1


@pytest.mark.models
def test_beside_a_format_the_answer_is_that_or_calls(grammars: Grammars, tokenizer: TokenizerWrapper) -> None:
    said = texts(grammars, tokenizer, asked(tools=TOOLS, response_format=schema(WEATHER)), count=12)
    called = [text for text in said if text.startswith("<")]
    assert 0 < len(called) < len(said)
    for text in said:
        if text in called:
            check_calls(text, {"get_weather", "get_time", "anything"})
        else:
            check(json.loads(text), WEATHER)


def test_where_the_vocabulary_has_markers_a_call_is_made_of_them(small: TokenizerWrapper) -> None:
    request = asked(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    constraint = Grammars(small, len(small)).constraint(request, reasoning=False)
    assert constraint
    walker = Walker(small, constraint, 0)
    walk([walker], len(small))
    assert walker.tokens[0] == calls.marker(small, calls.OPEN)
    assert walker.tokens[-1] == calls.marker(small, calls.CLOSE)
    check_calls(walker.text, {"get_weather", "get_time", "anything"})


@pytest.mark.parametrize("several", [True, False])
def test_a_call_that_a_model_begins_by_itself_is_a_valid_one(small: TokenizerWrapper, several: bool) -> None:
    request = asked(tools=TOOLS, parallel_tool_calls=several)
    constraint = Grammars(small, len(small)).constraint(request, reasoning=False)
    assert constraint
    walker = Walker(small, constraint, 3)
    for token in small.encode('Let me see: {"name', add_special_tokens=False):
        assert not constraint.wants_mask
        walker.take(token)

    walker.take(calls.marker(small, calls.OPEN))
    assert constraint.wants_mask
    masks = Masks(len(small))
    while not walker.over and (mask := masks.fill([constraint])) is not None:
        walker.step(allowed(mask))

    before, _, call = walker.text.partition("<tool_call>")
    assert check_calls(f"<tool_call>{call}", {"get_weather", "get_time", "anything"}) == 1
    assert constraint.ended is not several
    assert before == 'Let me see: {"name'


def test_a_schema_that_cannot_be_enforced_is_let_go_where_no_call_is_forced(small: TokenizerWrapper) -> None:
    grammars = Grammars(small, len(small))
    constraint = grammars.constraint(asked(tools=[tool("a", BAD), tool("get_weather", WEATHER)]), False)
    assert constraint
    said = {json.loads(_call(small, constraint.fork(), seed))["name"] for seed in range(12)}
    assert said == {"a", "get_weather"}
    with pytest.raises(BadRequest) as refused:
        grammars.constraint(asked(tools=[tool("b", {}), tool("a", BAD, strict=True)]), False)
    assert refused.value.param == "tools[1].function.parameters"


def _call(tokenizer: TokenizerWrapper, constraint: Constraint, seed: int) -> str:
    """What stands between the markers of a call that was begun in free text."""
    walker, masks = Walker(tokenizer, constraint, seed), Masks(len(tokenizer))
    walker.take(calls.marker(tokenizer, calls.OPEN))
    while (mask := masks.fill([constraint])) is not None:
        walker.step(allowed(mask))
    return walker.text.removeprefix(calls.OPEN).removesuffix(calls.CLOSE)


# --- reasoning


def token(tokenizer: TokenizerWrapper, text: str) -> int:
    [only] = tokenizer.encode(text, add_special_tokens=False)
    return only


def test_in_reasoning_everything_may_be_said_but_the_end(small: TokenizerWrapper) -> None:
    constraint = Grammars(small, len(small)).constraint(
        asked(response_format=schema(WEATHER)), reasoning=True
    )
    assert constraint
    masks, walker = Masks(len(small)), Walker(small, constraint, 1)
    for each in small.encode('{"wrong": <think>', add_special_tokens=False):
        may = set(allowed(masks.fill([constraint])).tolist())
        assert may == set(range(len(small))) - small.eos_token_ids
        walker.take(each)

    walker.take(token(small, "</think>"))
    walker.take(token(small, "\n\n"))
    walk([walker], len(small))

    said = walker.text.partition("</think>")[2]
    assert said.startswith("\n\n")
    check(json.loads(said), WEATHER)


def test_whitespace_behind_the_reasoning_comes_to_an_end(small: TokenizerWrapper) -> None:
    constraint = Grammars(small, len(small)).constraint(
        asked(response_format=schema(WEATHER)), reasoning=True
    )
    assert constraint
    constraint.accept(token(small, "</think>"))
    for _ in range(2):
        assert {token(small, "\n"), token(small, '{"')} < set(allowed(Masks(len(small)).fill([constraint])))
        constraint.accept(token(small, "\n"))
    may = allowed(Masks(len(small)).fill([constraint]))
    assert small.decode(may.tolist()).replace("{", "").replace('"', "") == ""


def test_an_answer_may_begin_with_reasoning_unless_that_is_switched_off(small: TokenizerWrapper) -> None:
    grammars, start = Grammars(small, len(small)), token(small, "<think>")
    form = {"response_format": schema(WEATHER)}
    thinking = grammars.constraint(asked(**form), reasoning=False)
    assert thinking
    assert start in allowed(Masks(len(small)).fill([thinking]))
    off: list[dict[str, Any]] = [
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ]
    for fields in off:
        constraint = grammars.constraint(asked(**form, **fields), reasoning=False)
        assert start not in allowed(Masks(len(small)).fill([constraint]))

    walker = Walker(small, thinking, 2)
    for text in ("<think>", "}", "</think>"):
        walker.take(token(small, text))
    walk([walker], len(small))
    check(json.loads(walker.text.partition("</think>")[2]), WEATHER)


def test_the_end_of_reasoning_may_be_several_tokens() -> None:
    spelled = small_tokenizer(markers=("<|channel>", "<channel|>"))
    assert len(spelled.think_start_tokens) > 1
    spelled._think_end_tokens = tuple(spelled.encode("ab</", add_special_tokens=False))
    grammars = Grammars(spelled, len(spelled))
    request = asked(response_format=schema(WEATHER))
    at_once = grammars.constraint(request, reasoning=False)
    assert set(allowed(Masks(len(spelled)).fill([at_once]))) <= {token(spelled, "{"), token(spelled, '{"')}

    constraint = grammars.constraint(request, reasoning=True)
    assert constraint
    walker = Walker(spelled, constraint, 4)
    for each in spelled.encode("aab<ab</", add_special_tokens=False):
        walker.take(each)
    walk([walker], len(spelled))
    check(json.loads(walker.text.removeprefix("aab<ab</")), WEATHER)


def test_a_call_amid_the_reasoning_is_a_valid_one_and_the_reasoning_goes_on(small: TokenizerWrapper) -> None:
    request = asked(tools=TOOLS, tool_choice="required")
    constraint = Grammars(small, len(small)).constraint(request, reasoning=True)
    assert constraint
    walker, masks = Walker(small, constraint, 5), Masks(len(small))
    walker.take(token(small, "<tool_call>"))
    while walker.tokens[-1] != token(small, "</tool_call>"):
        walker.step(allowed(masks.fill([constraint])))
    assert token(small, "}") in allowed(masks.fill([constraint]))
    walker.take(token(small, "</think>"))
    may = set(allowed(masks.fill([constraint])).tolist())
    assert may == {token(small, text) for text in ("<tool_call>", "\n", "\n\n", " ")}


def test_a_model_with_calls_of_its_own_may_make_them_instead_of_the_answer() -> None:
    own = small_tokenizer()
    own._tool_parser = lambda text, tools: {}
    constraint = Grammars(own, len(own)).constraint(
        asked(tools=TOOLS, response_format=schema(WEATHER)), False
    )
    assert constraint
    assert token(own, "<tool_call>") in allowed(Masks(len(own)).fill([constraint]))
    constraint.accept(token(own, "<tool_call>"))
    assert not constraint.wants_mask
    own._tool_call_start_tokens = tuple(own.encode("call:", add_special_tokens=False))
    with pytest.raises(BadRequest, match="tool_choice"):
        Grammars(own, len(own)).constraint(asked(tools=TOOLS, response_format=schema(WEATHER)), False)
