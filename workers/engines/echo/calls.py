"""The tool calls that the echo engine makes: those of the script, or those that it must."""

import re

import msgspec

from shared.chat.tools import NamedTool
from shared.errors import BadRequest
from shared.tasks.chat import Request
from workers.engines.echo.pieces import Called
from workers.engines.echo.script import Call, Script

PART = re.compile(r".{1,8}", re.DOTALL)  # of arguments that one token says


def of(request: Request, script: Script) -> list[Call]:
    """The calls, each with a name that the request has a tool for. Raises BadRequest."""
    names = [tool.function.name for tool in request.tools or ()]
    if not names or request.tool_choice == "none":
        return []
    if isinstance(request.tool_choice, NamedTool):
        told = next(iter(script.calls), Call())
        return [msgspec.structs.replace(told, name=request.tool_choice.function.name)]
    made = [call if call.name else msgspec.structs.replace(call, name=names[0]) for call in script.calls]
    if not made and request.tool_choice == "required":
        made = [Call(name=names[0])]
    if unknown := [call.name for call in made if call.name not in names]:
        raise BadRequest(f"The echo script calls '{unknown[0]}', which is no tool.", param="metadata")
    return made[:1] if request.parallel_tool_calls is False else made


def finish_reason(request: Request, made: list[Call]) -> str:
    """As OpenAI has it: a call that was asked for by name is no surprise, so it ends with "stop"."""
    return "tool_calls" if made and not isinstance(request.tool_choice, NamedTool) else "stop"


def pieces(made: list[Call], unique: str) -> list[Called]:
    """The calls token by token; `unique` makes their ids."""
    return [piece for index, call in enumerate(made) for piece in _pieces(index, call, unique)]


def _pieces(index: int, call: Call, unique: str) -> list[Called]:
    first = {
        "index": index,
        "id": f"call_{unique}{index}",
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    parts = PART.findall(call.written)
    return [
        Called(call.name, first),
        *(Called(part, {"index": index, "function": {"arguments": part}}) for part in parts),
    ]
