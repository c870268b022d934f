"""What a grammar may cost to compile, beyond what llguidance itself limits (1.9.1).

References and rules recurse on the thread's stack: 8 MB were used up by 400 to 800 definitions, each with
three levels of JSON, that refer to one another, and by 100 rules of 25 brackets. An intersection of n
patterns takes 2^n steps before llguidance's fuel is looked at: 16 took 0.07 s, 20 took 2 s, 24 took 57 s
and 4 GB.
"""

import json
import re
from collections import Counter
from decimal import Decimal
from math import prod
from typing import Any
from urllib.parse import unquote

SCHEMA_BYTES = 256 * 1024
DEFINITION_BYTES = 64 * 1024  # of a regular expression or a Lark grammar
CHAIN = 600  # levels of JSON, those of every definition that is referred to added up
MERGED = 16  # different patterns and formats, where some may have to hold at once
PATTERN_PROPERTIES = 100  # every two are compared
OPTIONAL = 480  # properties of one object; llguidance follows four ways for each, and gives up at 2,000
MULTIPLES = 100_000  # states of a check for divisors
RULES = 600  # rules and brackets of a Lark grammar
OPERATORS = 12  # its "&" and "~"

APPLICATORS = frozenset(("$ref", "allOf", "anyOf", "oneOf"))
ANNOTATIONS = frozenset(
    "$anchor $comment $defs $id $schema default definitions deprecated description discriminator examples"
    " id readOnly title writeOnly x-guidance".split()
)
LARK = re.compile(
    r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\])+/|(?://|#)[^\n]*'  # what hides everything else
    r"|(?P<schema>%json\s*)|(?P<rule>[:(\[{])|(?P<operator>[&~])"
)


class TooMuch(ValueError):
    """The message says of what."""


def schema_share(schema: dict[str, Any]) -> float:
    """How much of what one request may cost, 0 to 1. Raises TooMuch."""
    try:
        if len(json.dumps(schema)) > SCHEMA_BYTES:
            raise TooMuch(f"it has more than {SCHEMA_BYTES // 1024} KB")
        return _Schema(schema).share()
    except RecursionError as error:
        raise TooMuch("it is nested too deeply") from error


def regex_share(definition: str) -> float:
    """The same of a regular expression."""
    size = len(definition.encode("utf-8", "replace"))
    if size > DEFINITION_BYTES:
        raise TooMuch(f"it has more than {DEFINITION_BYTES // 1024} KB")
    return size / DEFINITION_BYTES


def lark_share(definition: str) -> float:
    """The same of a Lark grammar. Raises ValueError for a schema inside it that is not JSON."""
    regex_share(definition)
    found: Counter[str] = Counter()
    schemas = 0.0
    at = 0
    while token := LARK.search(definition, at):
        at = token.end()
        found[token.lastgroup or ""] += 1
        if token.lastgroup == "schema":
            schema, at = _read_json(definition, at)
            schemas += schema_share(schema) if isinstance(schema, dict) else 0
    if found["rule"] > RULES:
        raise TooMuch(f"it has more than {RULES} rules and brackets")
    if found["operator"] > OPERATORS:
        raise TooMuch(f"it has more than {OPERATORS} of the operators & and ~")
    if schemas > 1:
        raise TooMuch("the schemas in it are too much together")
    return 1.0


def _read_json(text: str, at: int) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except RecursionError as error:
        raise TooMuch("a schema in it is nested too deeply") from error


class _Schema:
    """What adds up in a schema. Whatever is a JSON object counts as a part of it, values of enums too."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self._depths: dict[int, int] = {}
        self._references: set[str] = set()
        self._patterns: set[tuple[str, str]] = set()
        self._multiples: set[int] = set()
        self._pattern_properties = 0
        self._optional = 0  # of the object that has most of them
        self._merges = False
        self._measure(schema)

    def share(self) -> float:
        chain = sum(self._depth_at(reference) for reference in self._references)
        if self._depths[id(self._root)] + chain > CHAIN:
            raise TooMuch("its definitions are too many and too deep")
        if self._merges and len(self._patterns) > MERGED:
            raise TooMuch(f"it combines schemas with more than {MERGED} different patterns and formats")
        if self._pattern_properties > PATTERN_PROPERTIES:
            raise TooMuch(f"it has more than {PATTERN_PROPERTIES} 'patternProperties'")
        if self._optional > OPTIONAL:
            raise TooMuch(f"it has an object with more than {OPTIONAL} optional properties")
        states = (prod if self._merges and self._multiples else sum)(self._multiples)
        if states > MULTIPLES:
            raise TooMuch("its values of 'multipleOf' are too large")
        return min(1.0, states / MULTIPLES + (self._pattern_properties / PATTERN_PROPERTIES) ** 2)

    def _measure(self, value: Any) -> int:
        if isinstance(value, dict):
            self._note(value)
            inner: Any = value.values()
        elif isinstance(value, list):
            inner = value
        else:
            return 0
        depth = 1 + max((self._measure(each) for each in inner), default=0)
        self._depths[id(value)] = depth
        return depth

    def _note(self, node: dict[str, Any]) -> None:
        applied = node.keys() & APPLICATORS
        several = isinstance(node.get("allOf"), list) and len(node["allOf"]) > 1
        self._merges |= several or (bool(applied) and len(node.keys() - ANNOTATIONS) > 1)
        texts = ((key, node.get(key)) for key in ("pattern", "format"))
        self._patterns |= {(key, text) for key, text in texts if isinstance(text, str)}
        if isinstance(node.get("$ref"), str):
            self._references.add(node["$ref"])
        if isinstance(properties := node.get("properties"), dict):
            required = node.get("required")
            optional = len(properties) - (len(required) if isinstance(required, list) else 0)
            self._optional = max(self._optional, optional)
        if isinstance(node.get("patternProperties"), dict):
            self._pattern_properties += len(node["patternProperties"])
            self._patterns |= {("pattern", key) for key in node["patternProperties"]}
        if isinstance(multiple := node.get("multipleOf"), int | float) and multiple > 0:
            self._multiples.add(_states(multiple))

    def _depth_at(self, reference: str) -> int:
        """How deep what it refers to is; as deep as the whole if that is not found by a plain pointer."""
        node: Any = self._root
        for step in unquote(reference.removeprefix("#")).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            node = node.get(step) if isinstance(node, dict) else _item(node, step)
        return self._depths.get(id(node), self._depths[id(self._root)])


def _item(node: Any, step: str) -> Any:
    inside = isinstance(node, list) and step.isdecimal() and int(step) < len(node)
    return node[int(step)] if inside else None


def _states(multiple: float) -> int:
    """The number without its point: 0.25 is checked as 25 is."""
    digits = Decimal(str(multiple)).as_tuple()
    whole = int("".join(map(str, digits.digits)))
    return whole * 10 ** min(max(int(digits.exponent), 0), 20)
