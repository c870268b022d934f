"""The form of tool calls: which tools may be called, by what markers, and what a block of them says.

Forced calls, and every call of a model without a tool format of its own, come in the Hermes form:

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

several one after another, a newline between them.
Source: https://github.com/NousResearch/Hermes-Function-Calling
"""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools

from shared.tasks import chat

OPEN, CLOSE = "<tool_call>", "</tool_call>"

HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"arguments"\s*:\s*(?=\{)')
OWN_ID = re.compile(r"[\w.:-]{1,64}")


def offered(request: chat.Request) -> list[dict[str, Any]]:
    """The tools that the prompt tells of, in OpenAI's shape; none when the choice is "none"."""
    return [] if request.tool_choice == "none" else msgspec.to_builtins(request.tools or [])


def allowed(request: chat.Request) -> list[dict[str, Any]]:
    """The tools that may be called: where one is named, that one alone."""
    named = named_tool(request)
    return [tool for tool in offered(request) if named in (None, tool["function"]["name"])]


def named_tool(request: chat.Request) -> str | None:
    choice = request.tool_choice
    return None if choice is None or isinstance(choice, str) else choice.function.name


def forced(request: chat.Request) -> bool:
    """Whether the answer must be calls and nothing else (after any reasoning)."""
    return bool(offered(request)) and (request.tool_choice == "required" or named_tool(request) is not None)


def several(request: chat.Request) -> bool:
    """Whether an answer may have more than one call."""
    return request.parallel_tool_calls is not False


def hermes(tokenizer: TokenizerWrapper, request: chat.Request) -> bool:
    """Whether this request's calls come in the Hermes form."""
    own = tokenizer.tool_parser
    return forced(request) or own is None or own is json_tools.parse_tool_call


def guided(tokenizer: TokenizerWrapper, request: chat.Request) -> bool:
    """Whether a grammar sees to it that a call which has begun is a valid one: forced ones from the
    start, others from OPEN on, where that is one token (`marker`)."""
    return forced(request) or (
        bool(offered(request)) and hermes(tokenizer, request) and marker(tokenizer, OPEN) is not None
    )


def marker(tokenizer: TokenizerWrapper, text: str) -> int | None:
    """The token that alone is `text`, if the vocabulary has one."""
    token = tokenizer.convert_tokens_to_ids(text)
    return token if token is not None and tokenizer.convert_ids_to_tokens(token) == text else None


def call_id(job_id: str, choice: int, index: int) -> str:
    """The same for every attempt at a job."""
    return f"call_{hashlib.sha256(f'{job_id}/{choice}/{index}'.encode()).hexdigest()[:24]}"


class Call(NamedTuple):
    """`arguments` is the JSON text of an object; `id` the model's own, of families that have one."""

    name: str
    arguments: str
    id: str | None = None


class Form(NamedTuple):
    """How calls stand in a text: between `start` and `end`, which is "" where only the end of the answer
    ends them. `parse(block, tools)` is one of mlx-lm's parsers."""

    start: str
    end: str
    parse: Callable[[str, list[dict[str, Any]]], Any]
    tools: list[dict[str, Any]]
    guided: bool

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool["function"]["name"] for tool in self.tools)

    def calls(self, block: str) -> list[Call] | None:
        """What the text between the markers calls; None if it is not calls of the tools, and nothing but."""
        try:
            parsed = self.parse(block, self.tools)
            calls = [self._call(each) for each in (parsed if isinstance(parsed, list) else [parsed])]
        except Exception:  # the parsers raise whatever a damaged text leads to
            return None
        return calls or None

    def _call(self, parsed: dict[str, Any]) -> Call:
        if parsed["name"] not in self.names:
            raise ValueError("no such tool")
        own = parsed.get("id")
        usable = isinstance(own, str) and OWN_ID.fullmatch(own)
        return Call(parsed["name"], _arguments(parsed.get("arguments")), own if usable else None)


def form(tokenizer: TokenizerWrapper, request: chat.Request) -> Form | None:
    """None where nothing may be called, and every marker is text."""
    if not (tools := allowed(request)):
        return None
    for tool in tools:
        tool["function"].setdefault("parameters", {})  # some parsers want it
    if hermes(tokenizer, request):
        return Form(OPEN, CLOSE, json_tools.parse_tool_call, tools, guided(tokenizer, request))
    start, end = tokenizer.tool_call_start, tokenizer.tool_call_end
    return Form(start, end or "", tokenizer.tool_parser, tools, False)


def _arguments(value: Any) -> str:
    """The JSON text of what a parser made. Raises TypeError or ValueError for what is no object."""
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, dict | None):
        raise TypeError("arguments are an object")
    text = json.dumps(value or {}, ensure_ascii=False, allow_nan=False)
    return text if _encodes(text) else json.dumps(value, allow_nan=False)


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


class Growing:
    """One call in the Hermes form while a grammar guides it: what follows OPEN, read as it comes.

    The name comes first. `feed` gives the next piece of the arguments, as they stand in the text; once
    `closed`, `rest` is the text behind CLOSE. A text that does not begin as it should stays in `held` up
    to and without CLOSE, and `name` None.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.name: str | None = None
        self.held = ""
        self.closed = False
        self.rest = ""
        self._names = names
        self._depth = 0
        self._in_string = self._escaped = self._complete = False

    def feed(self, text: str) -> str:
        self.held += text
        if self.name is None:
            self._read_name()
        if self.name is None:
            return ""
        arguments = "" if self._complete else self._read_arguments()
        if self._complete:
            self._read_end()
        return arguments

    def _read_name(self) -> None:
        head = HEAD.match(self.held)
        if head and head[1] in self._names:
            self.name, self.held = head[1], self.held[head.end() :]
        elif CLOSE in self.held:
            self.held, _, self.rest = self.held.partition(CLOSE)
            self.closed = True

    def _read_arguments(self) -> str:
        end = next((at for at, character in enumerate(self.held, 1) if self._completes(character)), None)
        self._complete = end is not None
        arguments, self.held = self.held[:end], "" if end is None else self.held[end:]
        return arguments

    def _completes(self, character: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = character == "\\"
            self._in_string = character != '"'
        else:
            self._in_string = character == '"'
            self._depth += (character in "{[") - (character in "}]")
        return self._depth == 0

    def _read_end(self) -> None:
        """The brace of the whole, and CLOSE; what is neither is text again."""
        rest = self.held.lstrip().removeprefix("}").lstrip()
        if rest.startswith(CLOSE) or not CLOSE.startswith(rest):
            self.closed, self.rest, self.held = True, rest.removeprefix(CLOSE), ""
