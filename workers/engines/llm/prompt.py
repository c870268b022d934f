"""From a request to the tokens that the model continues."""

import inspect
import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import jinja2
import msgspec
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import BadRequest
from shared.tasks import chat, completion
from workers.engines.llm import calls, conversation

Json = dict[str, Any]

PROBE = "probe_of_tools"
NINE = re.compile(r"id\s*\|\s*length\s*!=\s*9")  # Mistral's templates refuse other ids of calls
NOBODY: Json = {"role": "user", "content": ""}


class Prompt(msgspec.Struct):
    """What a model reads.

    `boundaries` are lengths, ascending and less than the whole, at which other requests may part from
    this one; `reasoning`: the answer begins inside a block of reasoning.
    """

    tokens: list[int]
    boundaries: list[int]
    reasoning: bool


class ChatTemplate:
    """A model's own chat template and tokenizer. Any thread."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        text = str(tokenizer.chat_template or "developer")
        self._developer = "developer" if "developer" in text else "system"
        self._nine = bool(NINE.search(text))
        self._reserved = frozenset(inspect.signature(tokenizer._tokenizer.apply_chat_template).parameters)
        # The first call may set the tokenizer's padding and truncation, which threads must not race for.
        tokenizer.encode("")
        self._renders_tools = tokenizer.has_chat_template and self._finds_tools()

    def prompt(self, request: chat.Request, *, boundaries: bool = False) -> Prompt:
        """The conversation and the head of the answer. Raises BadRequest."""
        if not self._tokenizer.has_chat_template:
            raise BadRequest("This model has no chat template: it cannot chat.", param="model")
        variables = self._variables(request)
        messages, tokens = self._first_taken(request, variables)
        return Prompt(
            tokens,
            self._boundaries(messages, variables, tokens) if boundaries else [],
            self._reasons(messages, variables, tokens),
        )

    def _first_taken(self, request: chat.Request, variables: Json) -> tuple[list[Json], list[int]]:
        """The first way to write the messages that the template takes."""
        refusals = []
        for messages in self._ways(request):
            try:
                return messages, self._tokens(messages, variables)
            except Exception as error:  # a template is a program of the model's makers: it raises anything
                refusals.append(error)
        raise self._refusal(refusals[0], request) from refusals[0]

    def _ways(self, request: chat.Request) -> Iterator[list[Json]]:
        said = {"developer": self._developer, "nine": self._nine}
        written = conversation.plain(request.messages, **said)
        tools = calls.offered(request)
        if not self._renders_tools:
            yield conversation.in_words(written, tools, system=True)
            if tools:
                yield conversation.in_words(written, tools, system=False)
            return
        yield written
        if any(message.tool_calls for message in request.messages):
            yield conversation.plain(request.messages, objects=False, **said)

    def _tokens(self, messages: list[Json], variables: Json, head: bool = True) -> list[int]:
        said = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=head, tokenize=True, **variables
        )
        return list(said)

    def _refusal(self, error: Exception, request: chat.Request) -> BadRequest:
        if isinstance(error, jinja2.TemplateError):
            return BadRequest(f"The model's chat template refuses these messages: {error}", param="messages")
        return BadRequest(
            f"The model's chat template cannot render these messages ({type(error).__name__}).",
            param="chat_template_kwargs" if request.chat_template_kwargs else "messages",
        )

    def _variables(self, request: chat.Request) -> Json:
        told = request.chat_template_kwargs or {}
        if taken := sorted(self._reserved & told.keys()):
            raise BadRequest(
                f"'chat_template_kwargs' cannot set {taken[0]!r}.", param=f"chat_template_kwargs.{taken[0]}"
            )
        effort = request.reasoning_effort
        thinking = {"reasoning_effort": effort, "enable_thinking": effort != "none"} if effort else {}
        tools = calls.offered(request) if self._renders_tools else []
        return thinking | told | ({"tools": tools} if tools else {})

    def _finds_tools(self) -> bool:
        """Whether the template tells the model of tools."""
        function = {"name": PROBE, "description": PROBE, "parameters": {"type": "object", "properties": {}}}
        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": "Hi"}],
                add_generation_prompt=True,
                tokenize=False,
                tools=[{"type": "function", "function": function}],
            )
        except Exception:  # as above
            return False
        return PROBE in text

    def _boundaries(self, messages: list[Json], variables: Json, tokens: list[int]) -> list[int]:
        """Where the system message and the tools end, where the last user's message begins, and where the
        head of the answer does."""
        system = len(list(takewhile(lambda message: message["role"] in ("system", "developer"), messages)))
        last = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=0)
        shorter = [[*messages[:length], NOBODY] for length in sorted({system, max(system, last)})]
        lengths = {self._shared(each, variables, tokens) for each in [*shorter, messages]}
        return sorted(length for length in lengths if 0 < length < len(tokens))

    def _shared(self, messages: list[Json], variables: Json, tokens: list[int]) -> int:
        """How many of the tokens a shorter conversation begins with."""
        try:
            others = self._tokens(messages, variables, head=False)
        except Exception:  # as above: then it has none that are known to be shared
            return 0
        return _common(others, tokens)

    def _reasons(self, messages: list[Json], variables: Json, tokens: list[int]) -> bool:
        """Whether the head of the answer opens a block of reasoning; a message may well speak of one."""
        if not self._tokenizer.has_thinking:
            return False
        start = self._tokenizer.rfind_think_start(tokens)
        if start <= self._tokenizer.rfind_think_end(tokens):
            return False
        opened = tokens[start + len(self._tokenizer.think_start_tokens) :]
        if not self._tokenizer.decode(opened).strip():
            return True
        return start >= self._shared(messages, variables, tokens)


def completion_prompts(
    request: completion.Request, tokenizer: TokenizerWrapper, vocabulary: int
) -> list[list[int]]:
    """The tokens of each prompt, at least one. A text gets what the tokenizer puts around any text.

    Raises BadRequest for ids that are none of the model's.
    """
    return [_completion_prompt(prompt, tokenizer, vocabulary) for prompt in request.prompts]


def _completion_prompt(prompt: str | list[int], tokenizer: TokenizerWrapper, vocabulary: int) -> list[int]:
    if isinstance(prompt, str):
        try:
            return list(tokenizer.encode(prompt)) or [_first(tokenizer)]
        except (TypeError, ValueError) as error:
            raise BadRequest("'prompt' is no text that has tokens.", param="prompt") from error
    if wrong := [token for token in prompt if not 0 <= token < vocabulary]:
        raise BadRequest(
            f"'prompt' has the token id {wrong[0]}; this model's are 0 to {vocabulary - 1}.", param="prompt"
        )
    return prompt or [_first(tokenizer)]


def _first(tokenizer: TokenizerWrapper) -> int:
    """What an answer to nothing begins with."""
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id
    if not tokenizer.eos_token_ids:
        raise BadRequest("This model cannot continue an empty prompt.", param="prompt")
    return min(tokenizer.eos_token_ids)


def _common(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
