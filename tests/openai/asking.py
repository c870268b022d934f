"""Requests that the tests of the clients send."""

import json
from typing import Any

from openai import OpenAI

MESSAGES = [{"role": "user", "content": "one two three"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


def script(**told: Any) -> dict[str, str]:
    """The `metadata` that tells the echo engine what to say."""
    return {"echo": json.dumps(told)}


def chat(client: OpenAI, text: str = "one two three", **fields: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(**{"model": "echo", "messages": messages} | fields)
