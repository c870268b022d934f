"""What a request's answer must be, walked at random with the real tokenizer of a model."""

import json
import re
from typing import Any

import msgspec
import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import BadRequest
from shared.tasks import completion
from tests.engines.formats import (
    ARITHMETIC,
    BAD,
    REGEXES,
    SCHEMAS,
    TOOLS,
    asked,
    check,
    grammar,
    schema,
    tool,
)
from tests.engines.walking import VOCABULARY, Walker, small_tokenizer, texts, walk
from workers.engines.llm.grammar import Grammars


@pytest.mark.models
@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_said_by_a_schema_validates(
    grammars: Grammars, tokenizer: TokenizerWrapper, name: str
) -> None:
    for text in texts(grammars, tokenizer, asked(response_format=schema(SCHEMAS[name])), count=6):
        check(json.loads(text), SCHEMAS[name])
        assert not re.search(r"\s\s|[\t\n]", re.sub(r'"(\\.|[^"\\])*"', "", text))


@pytest.mark.models
def test_json_object_is_an_object(grammars: Grammars, tokenizer: TokenizerWrapper) -> None:
    said = [
        json.loads(text)
        for text in texts(grammars, tokenizer, asked(response_format={"type": "json_object"}))
    ]
    assert all(isinstance(each, dict) for each in said)


@pytest.mark.models
@pytest.mark.parametrize("regex", REGEXES)
def test_whatever_is_said_by_a_regex_matches_as_a_whole(
    grammars: Grammars, tokenizer: TokenizerWrapper, regex: str
) -> None:
    for text in texts(grammars, tokenizer, asked(response_format=grammar("regex", regex))):
        assert re.fullmatch(regex, text)


@pytest.mark.models
def test_whatever_is_said_by_a_lark_grammar_is_of_its_language(
    grammars: Grammars, tokenizer: TokenizerWrapper
) -> None:
    for text in texts(grammars, tokenizer, asked(response_format=grammar("lark", ARITHMETIC))):
        assert re.fullmatch(r"[0-9+*()]+", text)
        assert isinstance(eval(text), int)


@pytest.mark.models
def test_a_completion_has_the_same_formats(grammars: Grammars, tokenizer: TokenizerWrapper) -> None:
    fields = {"model": "m", "prompt": "Hi", "response_format": grammar("regex", "[0-9]{4}")}
    constraint = grammars.constraint(msgspec.convert(fields, completion.Request), reasoning=False)
    assert constraint
    walker = Walker(tokenizer, constraint, 0)
    walk([walker], VOCABULARY)
    assert re.fullmatch("[0-9]{4}", walker.text)


def test_a_request_for_any_text_has_no_constraint(small: TokenizerWrapper) -> None:
    grammars = Grammars(small, len(small))
    for request in (asked(), asked(response_format={"type": "text"}), asked(tools=TOOLS, tool_choice="none")):
        assert grammars.constraint(request, reasoning=False) is None
    own = small_tokenizer(markers=())  # a call's marker is no token there: nothing says when one begins
    assert Grammars(own, len(own)).constraint(asked(tools=TOOLS), reasoning=False) is None


# --- what cannot be enforced


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": schema(BAD)}, "response_format.json_schema.schema"),
        (
            {"response_format": schema({"type": "string", "format": "no-such"})},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": schema({"type": "array", "uniqueItems": True})},
            "response_format.json_schema.schema",
        ),
        ({"response_format": schema({"$ref": "#/$defs/none"})}, "response_format.json_schema.schema"),
        ({"response_format": schema({"$ref": "http://example.com/s"})}, "response_format.json_schema.schema"),
        (
            {"response_format": schema({"x-guidance": {"lenient": True}, "not": {}})},
            "response_format.json_schema.schema",
        ),
        ({"response_format": schema({"enum": []})}, "response_format.json_schema.schema"),
        ({"response_format": grammar("regex", "a(")}, "response_format.grammar.definition"),
        ({"response_format": grammar("regex", "(?=a)b")}, "response_format.grammar.definition"),
        ({"response_format": grammar("lark", "start: nowhere")}, "response_format.grammar.definition"),
        ({"response_format": grammar("lark", '{"grammars": []}')}, "response_format.grammar.definition"),
        ({"tools": TOOLS, "response_format": schema(BAD)}, "response_format.json_schema.schema"),
        ({"tools": [*TOOLS, tool("a", BAD)], "tool_choice": "required"}, "tools[3].function.parameters"),
        (
            {
                "tools": [*TOOLS, tool("a", BAD)],
                "tool_choice": {"type": "function", "function": {"name": "a"}},
            },
            "tools[3].function.parameters",
        ),
    ],
)
def test_what_cannot_be_enforced_is_a_400_that_names_the_field(
    small: TokenizerWrapper, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        Grammars(small, len(small)).constraint(asked(**fields), reasoning=False)
    assert refused.value.param == param
    assert len(refused.value.message) < 300


def test_a_tokenizer_that_cannot_be_read_is_a_400() -> None:
    odd = small_tokenizer()
    odd._tokenizer.backend_tokenizer.decoder = None
    grammars = Grammars(odd, len(odd))
    for _ in range(2):
        with pytest.raises(BadRequest) as refused:
            grammars.constraint(asked(response_format={"type": "json_object"}), reasoning=False)
        assert (refused.value.param, refused.value.code) == ("response_format", "unsupported_value")
