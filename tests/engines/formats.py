"""Requests for structured answers, and schemas of every kind to ask for."""

from typing import Any

import jsonschema
import msgspec

from shared.tasks import chat

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "nested objects": {
        "type": "object",
        "properties": {
            "person": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 20}, "born": {"type": "integer"}},
                "required": ["name", "born"],
                "additionalProperties": False,
            }
        },
        "required": ["person"],
        "additionalProperties": False,
    },
    "arrays with bounds": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        "minItems": 2,
        "maxItems": 4,
    },
    "enum and const": {
        "type": "object",
        "properties": {"kind": {"const": "tool"}, "size": {"enum": ["S", "M", 7, None, {"a": [1]}]}},
        "required": ["kind", "size"],
    },
    "numbers with ranges": {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": -5, "exclusiveMaximum": 131},
            "share": {"type": "number", "minimum": 0, "maximum": 1},
            "even": {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 1000},
        },
        "required": ["age", "share", "even"],
        "additionalProperties": False,
    },
    "strings": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
            "day": {"type": "string", "format": "date"},
            "address": {"type": "string", "format": "ipv4"},
            "id": {"type": "string", "format": "uuid"},
            "note": {"type": "string", "minLength": 3, "maxLength": 12},
        },
        "required": ["code", "day", "address", "id", "note"],
        "additionalProperties": False,
    },
    "anyOf": {
        "anyOf": [
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
            {"type": "array", "items": {"type": "null"}},
            {"type": "integer"},
        ]
    },
    "recursion": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer", "minimum": 0, "maximum": 99},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "optional properties": {
        "type": "object",
        "properties": {f"p{n}": {"type": "integer", "minimum": 0, "maximum": 9} for n in range(8)},
        "required": ["p3"],
        "additionalProperties": False,
    },
    "other properties": {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "additionalProperties": {"type": "boolean"},
        "required": ["a"],
    },
    "booleans and null": {
        "type": "array",
        "items": {"type": ["boolean", "null"]},
        "minItems": 3,
        "maxItems": 9,
    },
    "tagged oneOf": {
        "oneOf": [
            {"type": "object", "properties": {"t": {"const": tag}, tag: WEATHER}, "required": ["t", tag]}
            for tag in ("x", "y")
        ]
    },
    "allOf": {"allOf": [{"$ref": "#/$defs/w"}, {"required": ["days"]}], "$defs": {"w": WEATHER}},
}
REGEXES = [
    r"[a-z]{3,10}@[a-z]{2,8}\.(com|org)",
    r"(yes|no|maybe), [0-9]{1,3}%",
    r"[^\x00-\x1f]{5}/\"[ä-ü]{2}\"",
]
ARITHMETIC = """
start: sum
sum: product ("+" product){0,3}
product: factor ("*" factor){0,2}
factor: NUMBER | "(" NUMBER ")"
NUMBER: /[1-9][0-9]{0,2}/
"""


def asked(**fields: Any) -> chat.Request:
    message = {"role": "user", "content": "Hi"}
    return msgspec.convert({"model": "m", "messages": [message]} | fields, chat.Request)


def schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def grammar(syntax: str, definition: str) -> dict[str, Any]:
    return {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}


def tool(name: str, parameters: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    given = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name} | given | more}


TOOLS = [tool("get_weather", WEATHER), tool("get_time", None), tool("anything", {})]
BAD = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}


def check(instance: Any, schema: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator
    validator(schema, format_checker=validator.FORMAT_CHECKER).validate(instance)
