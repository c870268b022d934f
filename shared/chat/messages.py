"""The messages of a conversation, as `openai.types.chat.ChatCompletionMessageParam`."""

from typing import Any, Literal

import msgspec

from shared.errors import BadRequest
from shared.generation import Text, missing
from shared.validation import not_supported

Role = Literal["system", "developer", "user", "assistant", "tool"]


class Part(msgspec.Struct):
    """A part of a message's content; only `type: "text"` is served."""

    type: str
    text: str = ""


class FunctionCall(msgspec.Struct):
    """`arguments` is JSON text as the model wrote it, which may be no JSON at all."""

    name: Text
    arguments: str


class ToolCall(msgspec.Struct):
    id: Text
    type: Literal["function"]
    function: FunctionCall


class Message(msgspec.Struct, omit_defaults=True):
    """`tool_calls` and `reasoning_content` are the assistant's, `tool_call_id` a tool's."""

    role: Role
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


OF_ROLE = {"tool_calls": "assistant", "tool_call_id": "tool", "reasoning_content": "assistant"}
UNSUPPORTED = ("refusal", "audio", "function_call")


def check_kinds(raw: Any) -> None:
    """Refuse what this server does not serve by its name, before its shape is looked at."""
    for index, message in enumerate(_list(raw)):
        calls = _list(message.get("tool_calls")) if isinstance(message, dict) else []
        for at, call in enumerate(calls):
            kind = call.get("type") if isinstance(call, dict) else None
            if isinstance(kind, str) and kind != "function":
                raise not_supported(f"messages[{index}].tool_calls[{at}].type", kind, ("function",))


def check_messages(messages: list[Message], raw: list[dict]) -> None:
    """`raw` is what the messages were read from. Raises BadRequest."""
    for index, message in enumerate(messages):
        _check(message, raw[index], f"messages[{index}]")


def _check(message: Message, raw: dict, where: str) -> None:
    for field in UNSUPPORTED:
        if raw.get(field):
            raise not_supported(f"{where}.{field}", None, ())
    for field, role in OF_ROLE.items():
        if getattr(message, field) and message.role != role:
            raise BadRequest(f"'{where}.{field}' is only for the role '{role}'.", param=f"{where}.{field}")
    if message.role == "tool" and not message.tool_call_id:
        raise missing(f"{where}.tool_call_id")
    _check_content(message, raw, f"{where}.content")


def _check_content(message: Message, raw: dict, where: str) -> None:
    if isinstance(message.content, list):
        for at, part in enumerate(message.content):
            if part.type != "text":
                raise not_supported(f"{where}[{at}].type", part.type, ("text",))
            if "text" not in raw["content"][at]:
                raise missing(f"{where}[{at}].text")
    elif message.content is None and message.role != "assistant":
        raise BadRequest(f"'{where}' must be a string or a list of parts.", param=where)


def _list(raw: Any) -> list:
    return raw if isinstance(raw, list) else []
