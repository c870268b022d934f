"""The tools that a model may call, as `openai.types.chat.ChatCompletionFunctionToolParam`."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.errors import BadRequest
from shared.generation import Name
from shared.validation import not_supported

MAX_TOOLS = 128


class Function(msgspec.Struct, omit_defaults=True):
    """`parameters` is the JSON Schema of an object; None takes no arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: Literal["function"]
    function: Function


class FunctionName(msgspec.Struct):
    name: str


class NamedTool(msgspec.Struct):
    """A `tool_choice` that leaves no choice."""

    type: Literal["function"]
    function: FunctionName


Tools = Annotated[list[Tool], Meta(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | NamedTool


def check_kinds(raw: dict[str, Any]) -> None:
    """Refuse what this server does not serve by its name, before its shape is looked at."""
    tools = raw.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        _check_kind(tool, f"tools[{index}].type")
    _check_kind(raw.get("tool_choice"), "tool_choice.type")


def check_tools(tools: list[Tool] | None, choice: ToolChoice | None) -> None:
    """What the types of the fields do not say. Raises BadRequest."""
    names: set[str] = set()
    for index, tool in enumerate(tools or ()):
        _check_function(tool.function, names, f"tools[{index}].function")
        names.add(tool.function.name)
    if forces(choice) and not names:
        raise BadRequest("'tool_choice' asks for a call, but there are no 'tools'.", param="tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise BadRequest(
            f"'tool_choice' names a function that is not among the tools: {', '.join(sorted(names))}.",
            param="tool_choice.function.name",
        )


def forces(choice: ToolChoice | None) -> bool:
    """Whether the answer must be a call."""
    return choice == "required" or isinstance(choice, NamedTool)


def _check_kind(raw: Any, where: str) -> None:
    kind = raw.get("type") if isinstance(raw, dict) else None
    if isinstance(kind, str) and kind != "function":
        raise not_supported(where, kind, ("function",))


def _check_function(function: Function, taken: set[str], where: str) -> None:
    if function.name in taken:
        raise BadRequest(f"Two tools have the name '{function.name}'.", param=f"{where}.name")
    if function.parameters and function.parameters.get("type", "object") != "object":
        raise BadRequest(
            f"'{where}.parameters' must be the JSON Schema of an object.", param=f"{where}.parameters.type"
        )
