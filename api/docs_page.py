"""The page `/docs`: the OpenAPI document for people. It needs nothing from the network."""

from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #2f6fde }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem }
h1 small { font-weight: normal; opacity: .6; font-size: 1rem }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; padding: .6rem 1rem }
summary { cursor: pointer; display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap }
summary b { color: var(--accent); min-width: 4rem; text-transform: uppercase; font-size: .8rem }
code { font: .9em ui-monospace, monospace }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem }
td, th { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--soft); vertical-align: top }
h3 { font-size: .9rem; margin: 1rem 0 0; opacity: .7 }
"""
LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
Schema = dict[str, Any]


def render(document: Schema) -> str:
    """A whole HTML page of an OpenAPI document."""
    info = document["info"]
    schemas = document["components"]["schemas"]
    operations = "".join(
        _operation(path, method, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        '<meta name=viewport content="width=device-width">'
        f"<style>{STYLE}</style><h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
        "<p>The shapes are OpenAI's. For machines: <a href=/openapi.json>openapi.json</a>.</p>"
        f"{operations}</html>"
    )


def _operation(path: str, method: str, operation: Schema, schemas: Schema) -> str:
    parts = [_text(operation.get("description", ""))]
    parts += [_parameters(operation.get("parameters", []))]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts += [f"<h3>Body, {escape(media)}</h3>", _fields(content["schema"], schemas)]
    parts += [_responses(operation["responses"])]
    return (
        f"<details><summary><b>{escape(method)}</b><code>{escape(path)}</code>"
        f"<span>{_text(operation['summary'])}</span></summary>{''.join(parts)}</details>"
    )


def _parameters(parameters: list[Schema]) -> str:
    rows = [(each["name"], each["in"], each.get("description", "")) for each in parameters]
    return f"<h3>Parameters</h3>{_table(rows)}" if rows else ""


def _responses(responses: Schema) -> str:
    return "<h3>Answers</h3>" + _table([(status, each["description"]) for status, each in responses.items()])


def _fields(schema: Schema, schemas: Schema) -> str:
    rows = []
    for part in schema.get("allOf", [schema]):
        part = _resolve(part, schemas)
        required = part.get("required", [])
        for name, field in part.get("properties", {}).items():
            rows.append((name, _kind(field), "required" if name in required else ""))
    return _table(rows)


def _kind(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    limits = [f"{word} {schema[key]}" for key, word in LIMITS.items() if key in schema]
    return " ".join([schema.get("type", "any"), *limits])


def _resolve(schema: Schema, schemas: Schema) -> Schema:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _table(rows: list[tuple[str, ...]]) -> str:
    cells = ("".join(f"<td>{_text(cell)}" for cell in row[1:]) for row in rows)
    return "<table>" + "".join(
        f"<tr><td><code>{escape(row[0])}</code>{rest}" for row, rest in zip(rows, cells, strict=True)
    ) + "</table>"


def _text(text: str) -> str:
    """Escaped, with `code` between backquotes."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
