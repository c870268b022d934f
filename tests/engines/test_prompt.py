"""From a request to prompt tokens, with templates of several kinds."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import BadRequest
from shared.manifest import ModelEntry
from shared.tasks import completion
from tests.engines.families import (
    FAMILIES,
    OPENS_THINKING,
    PLAIN,
    QWEN3,
    THINKING,
    TIME,
    WEATHER,
    asked,
    byte_level,
    encoded,
    family,
    of_words,
    sentencepiece,
)
from workers.engines.llm.prompt import ChatTemplate, Prompt, completion_prompts

SYSTEM, USER = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Paris?"}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
SUNNY = {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."}
TOOLS = [WEATHER, TIME]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    special = [*THINKING, "<tool_call>", "</tool_call>"]
    return byte_level(tmp_path_factory.mktemp("qwen"), QWEN3, special)


def read(tokenizer: TokenizerWrapper, *messages: dict[str, Any], **fields: Any) -> str:
    """The text that the model reads."""
    return tokenizer.decode(prompt(tokenizer, *messages, **fields).tokens)


def prompt(
    tokenizer: TokenizerWrapper, *messages: dict[str, Any], boundaries: bool = False, **fields: Any
) -> Prompt:
    return ChatTemplate(tokenizer).prompt(asked(messages=list(messages), **fields), boundaries=boundaries)


# --- messages


def test_messages_are_what_the_template_makes_of_them(qwen: TokenizerWrapper) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}
    text = read(qwen, SYSTEM, parts)
    assert (
        text
        == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nA\nB<|im_end|>\n<|im_start|>assistant\n"
    )


def test_developer_is_system_where_the_template_does_not_know_it(tmp_path: Path) -> None:
    developer = {"role": "developer", "content": "Be kind."}
    tokenizer = byte_level(tmp_path / "a", PLAIN)
    assert read(tokenizer, developer, USER) == read(tokenizer, SYSTEM, USER)
    knows = byte_level(tmp_path / "b", PLAIN + "{# developer #}")
    assert "<|im_start|>developer\n" in read(knows, developer, USER)


def test_earlier_reasoning_goes_to_the_template(qwen: TokenizerWrapper) -> None:
    thought = CALLING | {"reasoning_content": "Look it up."}
    assert "<think>\nLook it up.\n</think>" in read(qwen, USER, thought, SUNNY, tools=TOOLS)


def test_a_template_that_refuses_says_why(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path, "{{ raise_exception('Roles must alternate.') }}")
    with pytest.raises(BadRequest, match="Roles must alternate") as refused:
        prompt(tokenizer, USER)
    assert refused.value.param == "messages"


def test_a_template_that_breaks_over_its_variables_is_a_400(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path, PLAIN + "{{ 1 // depth }}")
    with pytest.raises(BadRequest) as refused:
        prompt(tokenizer, USER, chat_template_kwargs={"depth": 0})
    assert refused.value.param == "chat_template_kwargs"


def test_a_model_without_a_template_cannot_chat(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no chat template") as refused:
        prompt(byte_level(tmp_path, None), USER)
    assert refused.value.param == "model"


# --- tools


def test_tools_go_to_a_template_that_tells_of_them(qwen: TokenizerWrapper) -> None:
    text = read(qwen, SYSTEM, USER, tools=TOOLS)
    assert text.startswith("<|im_start|>system\nBe kind.\n\n# Tools\n{")
    lines = [json.loads(line.removesuffix("<|im_end|>")) for line in text.splitlines() if line[:1] == "{"]
    assert lines == TOOLS


def test_calls_and_results_go_to_a_template_that_tells_of_tools(qwen: TokenizerWrapper) -> None:
    text = read(qwen, USER, CALLING, SUNNY, tools=TOOLS)
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>' in text
    assert "<tool_response>\nSunny.\n</tool_response>" in text


@pytest.mark.parametrize("arguments", ["Paris", "[1]", "1" * 5000, ""])
def test_arguments_that_are_no_object_are_rendered_all_the_same(
    qwen: TokenizerWrapper, arguments: str
) -> None:
    call = CALL | {"function": {"name": "get_weather", "arguments": arguments}}
    text = read(qwen, USER, CALLING | {"tool_calls": [call]}, SUNNY)
    assert f'"arguments": {json.dumps(arguments) if arguments else "{}"}' in text


def test_a_template_that_wants_arguments_as_text_gets_them_so(tmp_path: Path) -> None:
    joins = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + c.function.arguments }}{% endfor %}{% endfor %}{{ tools }}"
    )
    assert 'get_weather{"city": "Paris"}' in read(byte_level(tmp_path, joins), USER, CALLING, SUNNY)


def test_results_carry_the_names_of_their_functions(tmp_path: Path) -> None:
    names = "{% for m in messages %}{{ m.role }}:{{ m.name }};{% endfor %}{{ tools }}"
    assert "tool:get_weather;" in read(byte_level(tmp_path, names), USER, CALLING, SUNNY)


def test_ids_of_calls_are_what_a_template_of_mistral_takes(tmp_path: Path) -> None:
    checks = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id|length != 9 %}"
        "{{ raise_exception('Ids have nine.') }}{% endif %}{{ c.id }}-{% endfor %}{{ m.tool_call_id }}"
        "{% endfor %}-{{ tools }}"
    )
    called, answered, _ = read(byte_level(tmp_path, checks), USER, CALLING, SUNNY).split("-")
    assert called == answered and len(called) == 9 and called.isalnum()


def test_a_choice_of_none_hides_the_tools(qwen: TokenizerWrapper, tmp_path: Path) -> None:
    for tokenizer in (qwen, byte_level(tmp_path, PLAIN)):
        assert read(tokenizer, USER, tools=TOOLS, tool_choice="none") == read(tokenizer, USER)


def test_other_templates_get_the_tools_in_words(tmp_path: Path) -> None:
    text = read(
        byte_level(tmp_path, PLAIN), SYSTEM, USER, CALLING, SUNNY, SUNNY | {"content": "Dry."}, tools=TOOLS
    )
    system, _, rest = text.partition("<|im_end|>\n")
    assert system.startswith("<|im_start|>system\nBe kind.\n\n# Tools\n")
    assert "\n".join(["<tools>", json.dumps(WEATHER), json.dumps(TIME), "</tools>"]) in system
    assert rest == (
        "<|im_start|>user\nParis?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nSunny.\n</tool_response>\n"
        "<tool_response>\nDry.\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_tools_in_words_come_first_where_there_is_no_system_message(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path, PLAIN)
    text = read(tokenizer, USER, tools=TOOLS)
    assert text.startswith("<|im_start|>system\n# Tools") and text.count("Paris?") == 1


def test_tools_in_words_come_with_the_question_where_there_can_be_no_system_message(tmp_path: Path) -> None:
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('No system.') }}{% endif %}" + PLAIN
    text = read(byte_level(tmp_path, no_system), USER, tools=TOOLS)
    assert text.startswith("<|im_start|>user\n# Tools") and text.count("\n\nParis?<|im_end|>") == 1


def test_every_family_is_told_of_its_tools_by_its_own_template(tmp_path: Path) -> None:
    for name in FAMILIES:
        text = read(family(tmp_path / name, name), USER, tools=TOOLS)
        assert text.count("get_weather") == 1 and "# Tools" not in text


def test_a_set_of_templates_is_asked_for_the_one_with_tools(tmp_path: Path) -> None:
    byte_level(tmp_path, PLAIN)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": "default", "template": PLAIN},
        {"name": "tool_use", "template": PLAIN + "{{ tools | tojson }}"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    from mlx_lm.tokenizer_utils import load

    tokenizer = load(tmp_path)
    assert "# Tools" not in (text := read(tokenizer, USER, tools=TOOLS)) and "get_weather" in text
    assert read(tokenizer, USER).endswith("assistant\n")


# --- reasoning


def test_reasoning_can_be_switched_off(qwen: TokenizerWrapper) -> None:
    off = "<think>\n\n</think>\n\n"
    assert read(qwen, USER, reasoning_effort="none").endswith(off)
    assert read(qwen, USER, chat_template_kwargs={"enable_thinking": False}).endswith(off)
    assert not read(qwen, USER, reasoning_effort="high").endswith(off)


def test_a_head_that_opens_reasoning_is_known(qwen: TokenizerWrapper, tmp_path: Path) -> None:
    opens = byte_level(tmp_path / "opens", OPENS_THINKING, THINKING)
    hints = byte_level(
        tmp_path / "hints", OPENS_THINKING.replace("<think>\n{%", "<think>\nFirst, {%"), THINKING
    )
    assert prompt(opens, USER).reasoning and prompt(hints, USER).reasoning
    assert not prompt(qwen, USER).reasoning
    assert not prompt(qwen, USER, reasoning_effort="none").reasoning


def test_a_message_that_speaks_of_reasoning_opens_none(qwen: TokenizerWrapper) -> None:
    assert not prompt(qwen, USER | {"content": "What is <think>?"}).reasoning
    assert not prompt(qwen, USER | {"content": "<think>"}).reasoning


# --- boundaries


def test_boundaries_are_where_other_requests_may_part_from_this_one(qwen: TokenizerWrapper) -> None:
    said = {"role": "assistant", "content": "Sunny."}
    first = prompt(qwen, SYSTEM, USER, said, USER | {"content": "Rome?"}, tools=TOOLS, boundaries=True)
    texts = [qwen.decode(first.tokens[:boundary]) for boundary in first.boundaries]

    assert len(texts) == 3
    assert texts[0].endswith("}<|im_end|>\n<|im_start|>user\n")
    assert texts[1].endswith("Sunny.<|im_end|>\n<|im_start|>user\n")
    assert texts[2].endswith("Rome?<|im_end|>\n")


def test_another_request_begins_with_the_same_tokens(qwen: TokenizerWrapper) -> None:
    one = prompt(qwen, SYSTEM, USER, boundaries=True)
    other = prompt(qwen, SYSTEM, USER | {"content": "Something else."}, boundaries=True)
    assert one.boundaries[0] == other.boundaries[0]
    assert one.tokens[: one.boundaries[0]] == other.tokens[: other.boundaries[0]]


def test_the_next_turn_begins_with_the_tokens_of_this_one(qwen: TokenizerWrapper) -> None:
    one = prompt(qwen, USER, boundaries=True)
    said = {"role": "assistant", "content": "Sunny."}
    two = prompt(qwen, USER, said, USER)
    assert two.tokens[: one.boundaries[-1]] == one.tokens[: one.boundaries[-1]]


def test_boundaries_are_ascending_and_within_the_prompt(qwen: TokenizerWrapper, tmp_path: Path) -> None:
    kinds = [
        qwen,
        byte_level(tmp_path / "plain", PLAIN),
        byte_level(tmp_path / "odd", "{{ messages[0].content }}"),
    ]
    for tokenizer in kinds:
        for messages in (
            [USER],
            [SYSTEM, USER],
            [SYSTEM],
            [USER, CALLING, SUNNY],
            [SYSTEM, USER, CALLING, SUNNY],
        ):
            made = prompt(tokenizer, *messages, boundaries=True)
            assert made.boundaries == sorted(set(made.boundaries))
            assert all(0 < boundary < len(made.tokens) for boundary in made.boundaries)


def test_boundaries_are_not_looked_for_unasked(qwen: TokenizerWrapper) -> None:
    assert prompt(qwen, SYSTEM, USER).boundaries == []


# --- completions


def prompts(tokenizer: TokenizerWrapper, given: Any) -> list[list[int]]:
    request = completion.validate({"model": "m", "prompt": given})
    return completion_prompts(request, tokenizer, len(tokenizer) + 2)


def test_a_text_is_read_as_the_tokenizer_reads_it(tmp_path: Path) -> None:
    for tokenizer in (sentencepiece(tmp_path / "a", PLAIN), byte_level(tmp_path / "b", PLAIN)):
        assert prompts(tokenizer, "the fox") == [tokenizer.encode("the fox")]
        assert prompts(tokenizer, ["the", "fox"]) == [tokenizer.encode("the"), tokenizer.encode("fox")]


def test_token_ids_are_taken_as_they_are(qwen: TokenizerWrapper) -> None:
    beyond = len(qwen) + 1  # rows that pad the vocabulary are the model's too
    assert prompts(qwen, [3, beyond]) == [[3, beyond]]
    assert prompts(qwen, [[3], [4, 5]]) == [[3], [4, 5]]


@pytest.mark.parametrize("given", [[10**6], [[1], [1, 10**6]]])
def test_token_ids_that_the_model_does_not_have_are_a_400(qwen: TokenizerWrapper, given: list) -> None:
    with pytest.raises(BadRequest, match="1000000") as refused:
        prompts(qwen, given)
    assert refused.value.param == "prompt"


def test_an_empty_text_is_the_token_that_texts_begin_with(tmp_path: Path) -> None:
    assert prompts(sentencepiece(tmp_path / "a", PLAIN), "") == [[1]]
    without = byte_level(tmp_path / "b", PLAIN)
    assert prompts(without, "") == [[without.eos_token_id]]


def test_a_text_that_has_no_tokens_is_a_400(tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refused:
        prompts(of_words(tmp_path, PLAIN), "\ud800")
    assert refused.value.param == "prompt"


@pytest.mark.models
def test_a_real_model_is_told_of_tools_and_of_no_others(starters: dict[str, tuple[ModelEntry, Path]]) -> None:
    from mlx_lm.tokenizer_utils import load

    tokenizer = load(starters["llm"][1])
    text = read(tokenizer, USER, tools=TOOLS)
    assert text.startswith("<|im_start|>system\n# Tools") and "<tool_call>\n" in text
    assert encoded(tokenizer, text) == prompt(tokenizer, USER, tools=TOOLS).tokens
