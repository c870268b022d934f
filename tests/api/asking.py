"""Requests that the tests of this folder send."""

import json
from typing import Any

CHAT = "/v1/chat/completions"
SPEECH = "/v1/audio/transcriptions"


def chat(text: str = "one two three", *, model: str = "echo", script: Any = None, **fields: Any) -> dict:
    """The body of a chat request, with what the echo engine is to do."""
    told = {"metadata": {"echo": json.dumps(script)}} if script else {}
    return {"model": model, "messages": [{"role": "user", "content": text}]} | told | fields


def events(text: str) -> list[dict[str, str]]:
    """The events of an SSE body, each its fields; comments are left out."""
    blocks = (block for block in text.split("\n\n") if block and not block.startswith(":"))
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
