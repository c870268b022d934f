"""From a request to what its answer must be: JSON, the text of a grammar, or calls of tools.

Everything is as the schema says; what llguidance does not know of a schema is refused, never left out. A
grammar holds from the end of the reasoning on, and a `response_format` only for content: where tools may
be called, calls may come instead.
"""

import json
import threading
from typing import Any

from llguidance import LLMatcher
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import BadRequest
from shared.generation import Generation, GrammarFormat, JsonSchemaFormat
from shared.tasks import chat
from workers.engines.llm import calls
from workers.engines.llm.compiler import ANY_OBJECT, Compiler, Part
from workers.engines.llm.constraint import Constraint, Guide

MAX_CALLS = 16  # of a forced answer: a small model may not find an end by itself
NOTHING = 'start: "{}"'  # the arguments of a function without parameters


class Grammars:
    """A model's. Any thread. `vocabulary` is the number of logits."""

    def __init__(self, tokenizer: TokenizerWrapper, vocabulary: int) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._lock = threading.Lock()
        self._compiler: Compiler | None = None
        self._fault: BaseException | None = None

    def constraint(self, request: Generation, reasoning: bool) -> Constraint | None:
        """None where any text will do. `reasoning`: the answer begins inside a block of it.

        Raises BadRequest, naming the field, for what llguidance cannot compile.
        """
        asked = request if isinstance(request, chat.Request) else None
        guided = asked is not None and calls.guided(self._tokenizer, asked)
        if not (request.constrained or guided):
            return None
        param = "response_format" if request.constrained else "tools"
        return _Answer(self._tokenizer, self._ready(param), request).constraint(reasoning)

    def _ready(self, param: str) -> Compiler:
        headed = self._tokenizer.response_initial_state not in (None, "normal")
        with self._lock:
            if not (headed or self._compiler or self._fault):
                try:
                    self._compiler = Compiler(self._tokenizer, self._vocabulary)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:  # llguidance panics over some, which is no Exception
                    self._fault = error
            if self._compiler:
                return self._compiler
        raise BadRequest(
            f"'{param}' cannot be enforced with this model's tokens.", param=param, code="unsupported_value"
        ) from self._fault


class _Answer:
    """One request's."""

    def __init__(self, tokenizer: TokenizerWrapper, compiler: Compiler, request: Generation) -> None:
        self._tokenizer, self._compiler, self._request = tokenizer, compiler, request
        self._chat = request if isinstance(request, chat.Request) else None
        self._tools = calls.allowed(self._chat) if self._chat else []
        self._forced = self._chat is not None and calls.forced(self._chat)
        self._opening = calls.marker(tokenizer, calls.OPEN)
        self._parts = self._arguments()

    def constraint(self, reasoning: bool) -> Constraint:
        think_start = self._think_start()
        answer = self._answer()
        guided = bool(self._tools) and calls.hermes(self._tokenizer, self._chat)
        opened = guided and self._opening is not None and (not answer or reasoning or think_start is not None)
        guide = Guide(
            tokens=self._compiler.tokens,
            param="tools" if self._forced or not self._request.constrained else self._content().param,
            think_start=think_start,
            opening=self._opening if opened else None,
            call=self._call(f"start: {self._body('')}") if opened else None,
            several=self._several,
            own_call=self._own_call() if answer and not guided else None,
        )
        return Constraint(guide, answer, reasoning)

    @property
    def _several(self) -> bool:
        return self._chat is None or (calls.several(self._chat) and calls.named_tool(self._chat) is None)

    def _answer(self) -> LLMatcher | None:
        """What the whole answer must be, if not any text will do."""
        if self._forced:
            return self._call(self._calls())
        if not self._request.constrained:
            return None
        content = self._content()
        if self._tools and calls.hermes(self._tokenizer, self._chat):
            return self._call(self._calls("@answer | "), {"answer": content})
        return self._compiler.compile(content)

    def _content(self) -> Part:
        said = self._request.response_format
        if isinstance(said, JsonSchemaFormat):
            return Part("json", said.json_schema.schema, "response_format.json_schema.schema")
        if isinstance(said, GrammarFormat):
            return Part(said.grammar.syntax, said.grammar.definition, "response_format.grammar.definition")
        return Part("json", ANY_OBJECT, "response_format")

    # --- calls in the Hermes form

    def _call(self, lark: str, more: dict[str, Part] | None = None) -> LLMatcher:
        return self._compiler.compile(Part("own", lark, "tools"), (more or {}) | self._parts)

    def _calls(self, instead: str = "") -> str:
        """The rules of one call or several."""
        several = f'("\\n" call){{0,{MAX_CALLS - 1}}}' if self._several else ""
        return f"start: {instead}call {several}\ncall: {self._body(_token(self._opening, calls.OPEN))}"

    def _body(self, opening: str) -> str:
        closing = _token(calls.marker(self._tokenizer, calls.CLOSE), calls.CLOSE)
        return f'{opening} "\\n" function "\\n" {closing}\nfunction: {self._functions()}'

    def _functions(self) -> str:
        heads = (f'{{"name": {json.dumps(tool["function"]["name"])}, "arguments": ' for tool in self._tools)
        return " | ".join(
            f'{json.dumps(head)} @{name} "}}"' for head, name in zip(heads, self._parts, strict=True)
        )

    def _arguments(self) -> dict[str, Part]:
        """The grammar of each tool's arguments. Of calls that nobody forces, a schema that cannot be
        enforced is let go, if it is not a strict one."""
        at = {tool.function.name: index for index, tool in enumerate((self._chat and self._chat.tools) or ())}
        parts = {}
        for tool in self._tools:
            function: dict[str, Any] = tool["function"]
            index = at[function["name"]]
            param, loose = f"tools[{index}].function.parameters", not (self._forced or function.get("strict"))
            parameters = function.get("parameters")
            parts[f"arguments_{index}"] = (
                Part("own", NOTHING, param)
                if parameters is None
                else Part("json", ANY_OBJECT | parameters, param, loose)
            )
        return parts

    # --- around the answer

    def _own_call(self) -> int | None:
        """The token that begins a call in the model's own form, which may come instead of the answer."""
        if not self._tools:
            return None
        start = self._tokenizer.tool_call_start_tokens
        if start is None or len(start) != 1:
            raise BadRequest(
                "This model cannot call tools beside a 'response_format': set 'tool_choice' to 'none', or to"
                " what must be called.",
                param="response_format",
                code="unsupported_value",
            )
        return start[0]

    def _think_start(self) -> int | None:
        """The token by which the answer may begin with reasoning, unless that was switched off."""
        starts = self._tokenizer.think_start_tokens
        if self._chat is None or starts is None or len(starts) != 1:
            return None
        told = self._chat.chat_template_kwargs or {}
        default = told.get("thinking", self._chat.reasoning_effort != "none")
        return starts[0] if told.get("enable_thinking", default) is not False else None


def _token(token: int | None, text: str) -> str:
    """A marker in a Lark grammar: its own token, or else its text."""
    return json.dumps(text) if token is None else f"<[{token}]>"
