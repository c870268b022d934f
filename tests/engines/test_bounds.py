"""What a grammar may cost: a hostile one is refused before it is compiled, a large one is not."""

import json
from typing import Any

import pytest

from shared.errors import BadRequest
from tests.engines.formats import asked, grammar, schema, tool
from tests.engines.walking import small_tokenizer
from workers.engines.llm.bounds import TooMuch, lark_share, schema_share
from workers.engines.llm.grammar import Grammars

Json = dict[str, Any]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    small = small_tokenizer()
    return Grammars(small, len(small))


def chain(definitions: int, link: Any) -> Json:
    """Definitions each of which refers to the next as `link` says."""
    named = {f"d{n}": link({"$ref": f"#/$defs/d{n + 1}"}) for n in range(definitions)}
    return {"$ref": "#/$defs/d0", "$defs": named | {f"d{definitions}": {"type": "object"}}}


def patterns(count: int) -> Json:
    return {"allOf": [{"type": "string", "pattern": f"[a-z]{{{n + 1}}}.*{n}"} for n in range(count)]}


def nested(levels: int) -> Any:
    inner: Any = {"type": "string"}
    for _ in range(levels):
        inner = {"items": inner}
    return inner


HOSTILE_SCHEMAS: dict[str, Json] = {
    "a chain of properties": chain(5000, lambda r: {"type": "object", "properties": {"a": r}}),
    "a chain of anyOf": chain(1000, lambda r: {"anyOf": [r, {"type": "null"}]}),
    "a chain of references": chain(5000, lambda r: r),
    "an intersection of patterns": patterns(24),
    "an intersection through references": {
        "$defs": {
            f"d{n}": {"$ref": f"#/$defs/d{n + 1}", "pattern": f"[a-z]{{{n + 1}}}.*{n}"} for n in range(30)
        }
        | {"d30": {"type": "string"}},
        "$ref": "#/$defs/d0",
    },
    "many patternProperties": {
        "type": "object",
        "patternProperties": {f"^[a-z]{{{n + 1}}}$": {"type": "null"} for n in range(300)},
    },
    "an intersection of multiples": {"allOf": [{"multipleOf": prime} for prime in (101, 103, 107)]},
    "many multiples": {
        "properties": {f"p{n}": {"type": "number", "multipleOf": 10007 + n} for n in range(200)}
    },
    "a large enum": {"enum": [f"{n:08d}" for n in range(50_000)]},
    "deep nesting": nested(200),
    "many optional properties": {
        "type": "object",
        "properties": {f"p{n}": {"type": "null"} for n in range(3000)},
    },
}
HOSTILE_DEFINITIONS: dict[str, tuple[str, str]] = {
    "a chain of rules": (
        "lark",
        "\n".join(["start: r0", *(f"r{n}: r{n + 1}" for n in range(4000)), 'r4000: "a"']),
    ),
    "rules of brackets": (
        "lark",
        "\n".join(["start: r0", *(f"r{n}: {'(' * 25}r{n + 1}{')' * 25}" for n in range(200)), 'r200: "a"']),
    ),
    "an intersection": ("lark", "start: A\nA: " + " & ".join(f"/.*{n:03d}.*/" for n in range(24))),
    "a hostile schema inside": ("lark", f'start: "a" %json {json.dumps(patterns(24))}'),
    "a long regex": ("regex", "[a-z][0-9]" * 20_000),
    "a long grammar": ("lark", "start: " + " | ".join(f'"{n}"' for n in range(20_000))),
    "many brackets": ("lark", "start: " + "(" * 100_000 + '"a"' + ")" * 100_000),
    "many groups": ("regex", "(" * 10_000 + "a" + ")" * 10_000),
}


@pytest.mark.parametrize("name", HOSTILE_SCHEMAS)
def test_a_hostile_schema_is_a_400(grammars: Grammars, name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        grammars.constraint(asked(response_format=schema(HOSTILE_SCHEMAS[name])), False)
    assert refused.value.param == "response_format.json_schema.schema"
    with pytest.raises(BadRequest) as refused:
        parameters = {"type": "object", "properties": {"a": HOSTILE_SCHEMAS[name]}}
        if "$defs" in HOSTILE_SCHEMAS[name]:
            parameters = {"type": "object"} | HOSTILE_SCHEMAS[name]
        grammars.constraint(asked(tools=[tool("a", parameters)], tool_choice="required"), False)
    assert refused.value.param == "tools[0].function.parameters"


@pytest.mark.parametrize("name", HOSTILE_DEFINITIONS)
def test_a_hostile_grammar_is_a_400(grammars: Grammars, name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        grammars.constraint(asked(response_format=grammar(*HOSTILE_DEFINITIONS[name])), False)
    assert refused.value.param == "response_format.grammar.definition"
    assert len(refused.value.message) < 300


def test_tools_that_are_too_much_only_together_are_a_400(grammars: Grammars) -> None:
    costly = [
        tool(f"t{n}", {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 20_000 + n}}})
        for n in range(8)
    ]
    assert grammars.constraint(asked(tools=costly[:4], tool_choice="required"), False)
    with pytest.raises(BadRequest) as refused:
        grammars.constraint(asked(tools=costly, tool_choice="required"), False)
    assert refused.value.param == "tools"


def test_large_schemas_of_honest_makers_are_taken(grammars: Grammars) -> None:
    models = {
        f"m{n}": {
            "type": "object",
            "title": f"Model {n}",
            "properties": {
                "created": {"type": "string", "format": "date-time", "description": "when"},
                "next": {"anyOf": [{"$ref": f"#/$defs/m{(n + 1) % 60}"}, {"type": "null"}], "default": None},
                "many": {"type": "array", "items": {"$ref": f"#/$defs/m{(n * 7) % 60}"}},
            },
            "required": ["created", "next"],
            "additionalProperties": False,
        }
        for n in range(60)
    }
    wide = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(300)}}
    wide["required"] = list(wide["properties"])
    for each in ({"$defs": models, "$ref": "#/$defs/m0"}, wide, {"enum": [f"{n:06d}" for n in range(5000)]}):
        assert grammars.constraint(asked(response_format=schema(each)), False)
    many = [
        tool(f"t{n}", {"type": "object", "properties": {"a": wide["properties"]["p0"]}}) for n in range(128)
    ]
    assert grammars.constraint(asked(tools=many, tool_choice="required"), False)


def test_a_pattern_that_is_there_twice_counts_once() -> None:
    dated = {
        "type": "object",
        "properties": {f"p{n}": {"type": "string", "format": "date"} for n in range(50)},
    }
    assert schema_share({"allOf": [dated, {"required": ["p0"]}]}) == 0
    assert schema_share(patterns(16)) == 0
    with pytest.raises(TooMuch, match="patterns"):
        schema_share(patterns(17))


def test_what_stands_in_literals_and_comments_of_a_grammar_does_not_count() -> None:
    hidden = f'start: "{"&(" * 500}" // {"~[" * 500}\n# {"&" * 50}\nA: /[{"&~(" * 200}]\\/&{"&" * 20}/'
    assert lark_share(hidden) == 1
    with pytest.raises(TooMuch, match="operators"):
        lark_share(hidden + "&~" * 7)
