"""Messages as chat templates want them, and tools in words for templates that know nothing of tools."""

import hashlib
import json
import re
from typing import Any

from shared.chat.messages import Message, ToolCall
from workers.engines.llm.calls import CLOSE, OPEN

Json = dict[str, Any]

NINE = re.compile(r"[a-zA-Z0-9]{9}")

# Source: the chat template of https://huggingface.co/Qwen/Qwen2.5-7B-Instruct
TOOLS = f"""# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
%s
</tools>

For each function call, return a json object with function name and arguments within {OPEN}{CLOSE} XML tags:
{OPEN}
{{"name": <function-name>, "arguments": <args-json-object>}}
{CLOSE}"""


def plain(messages: list[Message], *, developer: str, objects: bool = True, nine: bool = False) -> list[Json]:
    """Content as one text, and the name of its function with every tool's message.

    `developer` is the role that stands for "developer"; the arguments of calls are `objects`, where they
    can be, or JSON text; `nine` is for templates that want ids of nine letters and digits.
    """
    names = {call.id: call.function.name for message in messages for call in message.tool_calls or ()}
    said = []
    for message in messages:
        known: Json = {
            "name": message.name or names.get(message.tool_call_id),
            "reasoning_content": message.reasoning_content,
            "tool_call_id": message.tool_call_id and _id(message.tool_call_id, nine),
            "tool_calls": [_call(call, objects, nine) for call in message.tool_calls or ()],
        }
        role = developer if message.role == "developer" else message.role
        said.append({"role": role, "content": _text(message)} | {k: v for k, v in known.items() if v})
    return said


def in_words(messages: list[Json], tools: list[Json], system: bool) -> list[Json]:
    """The same with the tools, calls and their results as text in the Hermes form: the tools in the system
    message, or before the first user's for templates that have none."""
    said: list[Json] = []
    for message in messages:
        if message["role"] == "tool" and said and said[-1].get("results"):
            said[-1]["content"] += f"\n{_response(message)}"
        elif message["role"] == "tool":
            said.append({"role": "user", "content": _response(message), "results": True})
        else:
            said.append(_with_calls(message))
    for message in said:
        message.pop("results", None)
    return _introduce(said, tools, "system" if system else "user") if tools else said


def _text(message: Message) -> str:
    if isinstance(message.content, list):
        return "\n".join(part.text for part in message.content)
    return message.content or ""


def _call(call: ToolCall, objects: bool, nine: bool) -> Json:
    arguments = _object(call.function.arguments) if objects else call.function.arguments
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": _id(call.id, nine), "type": "function", "function": function}


def _object(arguments: str) -> Json | str:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _id(own: str, nine: bool) -> str:
    return hashlib.sha256(own.encode()).hexdigest()[:9] if nine and not NINE.fullmatch(own) else own


def _response(message: Json) -> str:
    return f"<tool_response>\n{message['content']}\n</tool_response>"


def _with_calls(message: Json) -> Json:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    texts = [f"{OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{CLOSE}" for call in calls]
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return kept | {"content": "\n".join(text for text in (message["content"], *texts) if text)}


def _introduce(messages: list[Json], tools: list[Json], role: str) -> list[Json]:
    words = TOOLS % "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    at = next((index for index, message in enumerate(messages) if message["role"] == role), None)
    if at is None or (role == "system" and at):
        return [{"role": role, "content": words}, *messages]
    content = messages[at]["content"]
    both = [content, words] if role == "system" else [words, content]
    merged = messages[at] | {"content": "\n\n".join(text for text in both if text)}
    return [*messages[:at], merged, *messages[at + 1 :]]
