"""Tool calls in the text of a model: every family's form, and what comes of damaged ones."""

import json
import random
from pathlib import Path

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from tests.engines.families import (
    FAMILIES,
    PARIS,
    QWEN3,
    THINKING,
    TIME,
    WEATHER,
    answering,
    asked,
    byte_level,
    encoded,
    family,
    heard,
    said,
    told,
)
from workers.engines.llm import calls

TOOLS = [WEATHER, TIME]
CALLED = [("get_weather", PARIS)]
HERMES = FAMILIES["json_tools"].block
FORCED = ["required", {"type": "function", "function": {"name": "get_weather"}}]
DAMAGE = [
    "",
    "{",
    "}",
    '"',
    "\\",
    "</tool_call>",
    "<tool_call>",
    "é",
    "😀",
    "\n",
    "</think>",
    "<think>",
    "]",
    "0",
]


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(name: str, tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    return family(tmp_path_factory.mktemp(name), name)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    special = [*THINKING, "<tool_call>", "</tool_call>"]
    return byte_level(tmp_path_factory.mktemp("qwen"), QWEN3, special)


def test_mlx_lm_knows_the_family(name: str, tokenizer: TokenizerWrapper) -> None:
    assert tokenizer.init_kwargs.get("tool_parser_type") == (None if name == "of_no_family" else name)


def test_a_call_in_the_familys_own_form_is_told(name: str, tokenizer: TokenizerWrapper) -> None:
    heard = said(tokenizer, FAMILIES[name].block, tools=TOOLS)
    assert (heard.called, heard.text, heard.finish_reason) == (CALLED, "", "tool_calls")


def test_text_before_a_call_stays_content(name: str, tokenizer: TokenizerWrapper) -> None:
    heard = said(tokenizer, f"Let me see. {FAMILIES[name].block}", tools=TOOLS)
    assert (heard.called, heard.text) == (CALLED, "Let me see. ")


def test_white_space_around_calls_is_not_content(name: str, tokenizer: TokenizerWrapper) -> None:
    block = FAMILIES[name].block
    heard = said(tokenizer, f"\n{block}\n{block}\n", tools=TOOLS)
    assert (heard.called, heard.text) == (CALLED * 2, "")
    assert len({call[0] for call in heard.called_texts}) == 2


def test_without_tools_a_marker_is_text(name: str, tokenizer: TokenizerWrapper) -> None:
    block = FAMILIES[name].block
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        heard = said(tokenizer, block, **fields)
        assert (heard.text, heard.calls, heard.finish_reason) == (block, [], "stop")


def test_a_call_of_a_tool_that_is_not_there_is_text(name: str, tokenizer: TokenizerWrapper) -> None:
    block = FAMILIES[name].block.replace("get_weather", "get_wealth")
    heard = said(tokenizer, block, tools=TOOLS)
    assert (heard.text, heard.calls, heard.finish_reason) == (block, [], "stop")


@pytest.mark.parametrize("choice", FORCED)
def test_forced_calls_come_in_the_hermes_form_whatever_the_family(
    tokenizer: TokenizerWrapper, choice: str | dict
) -> None:
    heard = said(tokenizer, HERMES, tools=TOOLS, tool_choice=choice)
    assert (heard.called, heard.text) == (CALLED, "")
    assert heard.finish_reason == ("tool_calls" if choice == "required" else "stop")


def test_only_the_first_call_is_told_where_several_are_not_wanted(
    name: str, tokenizer: TokenizerWrapper
) -> None:
    block = FAMILIES[name].block
    heard = said(tokenizer, f"{block}\n{block}", tools=TOOLS, parallel_tool_calls=False)
    assert (heard.called, heard.text, heard.finish_reason) == (CALLED, "", "tool_calls")


def test_an_answer_ends_behind_its_only_call(qwen: TokenizerWrapper) -> None:
    voice = answering(qwen, tools=TOOLS, parallel_tool_calls=False)
    events = told(voice, encoded(qwen, f"{HERMES} and so on, and on"))
    assert voice.ended(0)
    assert heard(events[:-1] + events[-1:]).text == ""
    assert events[-1].usage["completion_tokens"] == len(encoded(qwen, HERMES))


def test_a_call_that_the_limit_cut_off_is_text_and_nothing_where_a_grammar_guides_it(
    name: str, tokenizer: TokenizerWrapper
) -> None:
    cut = FAMILIES[name].block[: 30 if name == "json_tools" else -30]
    heard = said(tokenizer, cut, end="length", tools=TOOLS)
    text = "" if calls.guided(tokenizer, asked(tools=TOOLS)) else cut
    assert (heard.text, heard.calls, heard.finish_reason) == (text, [], "length")


def test_damaged_calls_end_as_calls_or_text_and_nothing_is_lost(
    name: str, tokenizer: TokenizerWrapper
) -> None:
    chance = random.Random(name)
    for _ in range(300):
        text = _damaged(f"So: {FAMILIES[name].block}\nOr {FAMILIES[name].block}", chance)
        events = told(answering(tokenizer, tools=TOOLS), encoded(tokenizer, text), [5, 1, 50, 2])
        said = heard(events)
        left = _without(text, said.text + said.reasoning)
        assert left is not None
        if calls.guided(tokenizer, asked(tools=TOOLS)):
            continue  # a grammar would have kept it from the damage
        assert {name for name, _ in said.called} <= {"get_weather", "get_time"}
        assert said.calls or tokenizer.has_thinking or not left.strip()


def _damaged(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 3)):
        at, length = chance.randrange(len(text)), chance.choice((0, 1, 5, 40))
        text = text[:at] + chance.choice(DAMAGE) + text[at + length :]
    return text


def _without(text: str, told: str) -> str | None:
    """What remains of a text when what was told is taken out of it in order; None if it is not all there."""
    rest, characters = [], iter(told)
    expected = next(characters, None)
    for character in text:
        if character == expected:
            expected = next(characters, None)
        else:
            rest.append(character)
    return "".join(rest) if expected is None else None


def test_what_a_damaged_call_leaves_is_the_whole_text(qwen: TokenizerWrapper) -> None:
    for damaged in (
        HERMES.replace("get_weather", "nothing"),
        HERMES[:30],
        HERMES.replace("{", "["),
        "<tool_call></tool_call>",
        "<tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": ["get_weather"]}</tool_call>',
        "<tool_call>" * 500,
        f"</tool_call>{HERMES[11:]}",
    ):
        heard = said(qwen, f"See: {damaged} ", tools=TOOLS)
        assert (heard.text, heard.calls, heard.finish_reason) == (f"See: {damaged} ", [], "stop")


@pytest.mark.parametrize(
    ("block", "arguments"),
    [
        ('{"name": "get_time"}', "{}"),
        ('{"name": "get_time", "arguments": null}', "{}"),
        ('{"arguments": {"a": [1, "}"]}, "name": "get_time"}', '{"a": [1, "}"]}'),
        ('{"name": "get_time", "arguments": "{\\"a\\": \\"é\\"}"}', '{"a": "é"}'),
        ('{"arguments": {"a": "\\ud83d"}, "name": "get_time"}', '{"a": "\\ud83d"}'),
    ],
)
def test_a_call_that_is_written_in_its_own_way_is_whole(
    qwen: TokenizerWrapper, block: str, arguments: str
) -> None:
    heard = said(qwen, f"<tool_call>{block}</tool_call>", tools=TOOLS)
    assert heard.called_texts[0][1:] == ("get_time", arguments)


def test_a_guided_call_grows_as_it_is_written(qwen: TokenizerWrapper) -> None:
    arguments = '{"city": "Pa}ris \\"é\\" </tool_call> 😀\\\\", "days": [{"n": 3}]}'
    text = f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>'
    tokens = encoded(qwen, text)

    events = told(answering(qwen, tools=TOOLS), tokens)
    deltas = heard(events).calls

    assert deltas[0]["function"] == {"name": "get_weather", "arguments": "{"}
    assert deltas[0]["type"] == "function"
    assert all(delta.keys() == {"index", "function"} for delta in deltas[1:])
    assert len(deltas) > len(arguments) / 2  # nothing waits for the end
    assert heard(events).arguments() == arguments
    assert json.loads(arguments)["city"].endswith("\\")


def test_a_guided_call_that_the_limit_cuts_off_has_the_arguments_so_far(qwen: TokenizerWrapper) -> None:
    heard = said(qwen, HERMES[:-30], end="length", tools=TOOLS)
    assert heard.arguments() == '{"city": "Pa'
    assert (heard.text, heard.finish_reason) == ("", "length")


def test_text_goes_on_behind_a_guided_call(qwen: TokenizerWrapper) -> None:
    heard = said(qwen, f"{HERMES}\n{HERMES}\nThere, <b>done</b>.", tools=TOOLS)
    assert (heard.called, heard.text) == (CALLED * 2, "There, <b>done</b>.")


def test_what_no_grammar_guides_comes_whole(tmp_path: Path) -> None:
    tokenizer = family(tmp_path, "of_no_family")
    assert not calls.guided(tokenizer, asked(tools=TOOLS))
    deltas = said(tokenizer, HERMES, tools=TOOLS).calls
    assert [json.loads(delta["function"]["arguments"]) for delta in deltas] == [PARIS]


def test_a_call_amid_reasoning_is_one_and_talk_of_calls_is_not(qwen: TokenizerWrapper) -> None:
    heard = said(qwen, f"<think>I write <tool_call> then.</think>\n{HERMES}", tools=TOOLS)
    assert (heard.reasoning, heard.text, heard.called) == ("I write <tool_call> then.", "", CALLED)

    heard = said(qwen, f"<think>So {HERMES} it is.</think>Yes.", tools=TOOLS)
    assert (heard.reasoning, heard.text, heard.called) == ("So  it is.", "Yes.", CALLED)


def test_ids_follow_from_job_choice_and_index(qwen: TokenizerWrapper) -> None:
    def ids(job_id: str, choice: int = 0) -> list[str]:
        voice = answering(qwen, job_id, tools=TOOLS, n=2)
        events = told(voice, encoded(qwen, HERMES * 2), choice=choice)
        events += told(voice, [], choice=1 - choice)
        return [call[0] for call in heard(events, choice).called_texts]

    assert ids("job-1") == ids("job-1")
    every = ids("job-1") + ids("job-1", 1) + ids("job-2")
    assert len(set(every)) == 6
    assert all(each.startswith("call_") and len(each) == 29 for each in every)


def test_a_familys_own_ids_are_kept(tmp_path: Path) -> None:
    tokenizer, block = family(tmp_path, "kimi_k2"), FAMILIES["kimi_k2"].block
    heard = said(tokenizer, block * 2, tools=TOOLS)
    first, second = (call[0] for call in heard.called_texts)
    assert first == "functions.get_weather:0" != second


def test_a_named_tool_is_the_only_one_that_may_be_called() -> None:
    named = asked(tools=TOOLS, tool_choice=FORCED[1])
    assert [tool["function"]["name"] for tool in calls.offered(named)] == ["get_weather", "get_time"]
    assert [tool["function"]["name"] for tool in calls.allowed(named)] == ["get_weather"]


@pytest.mark.parametrize(
    ("fields", "forced"),
    [({}, False), ({"tool_choice": "auto"}, False), ({"tool_choice": "none"}, False)]
    + [({"tool_choice": choice}, True) for choice in FORCED],
)
def test_calls_are_forced_by_required_and_by_a_name(fields: dict, forced: bool) -> None:
    assert calls.forced(asked(tools=TOOLS, **fields)) is forced


def test_a_marker_is_one_token_only_where_the_vocabulary_has_it(
    qwen: TokenizerWrapper, tmp_path: Path
) -> None:
    [token] = encoded(qwen, calls.OPEN)
    assert calls.marker(qwen, calls.OPEN) == token
    assert calls.marker(family(tmp_path, "of_no_family"), calls.OPEN) is None
