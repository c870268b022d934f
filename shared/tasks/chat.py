"""Chat completions, in the shapes of `openai.types.chat`."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from shared import generation
from shared.chat import answer, messages, tools
from shared.chat.messages import Message
from shared.chat.tools import ToolChoice, Tools
from shared.errors import BadRequest
from shared.generation import Generation, Positive
from shared.validation import validate as convert

ENDPOINT = "/v1/chat/completions"
FILE = False
RESUMES = False
STREAM_END = "[DONE]"


class Request(Generation, kw_only=True, omit_defaults=True):
    """A chat completion request. Fields that OpenAI has and this server does not honour are a 400."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    safety_identifier: str | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


UNSUPPORTED: dict[str, tuple] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "store": (False,),
    "verbosity": ("medium",),
    "prompt_cache_options": ({}, {"mode": "implicit"}),
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),  # at most so long: all are kept
    "webhook_url": (),
}


def validate(raw: Any, strict: bool = True) -> Request:
    generation.check_depth(raw, "tools", "response_format", "chat_template_kwargs")
    if isinstance(raw, dict):
        messages.check_kinds(raw.get("messages"))
        tools.check_kinds(raw)
    request = convert(raw, Request, UNSUPPORTED, strict=strict)
    generation.check(request)
    messages.check_messages(request.messages, raw["messages"])
    tools.check_tools(request.tools, request.tool_choice)
    _check_combinations(request)
    return request


def _check_combinations(request: Request) -> None:
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("'top_logprobs' is only allowed with 'logprobs': true.", param="top_logprobs")
    if request.constrained and tools.forces(request.tool_choice):
        raise BadRequest(
            "'response_format' and a 'tool_choice' that forces a call exclude each other.",
            param="response_format",
        )


lane = generation.lane
body = answer.body
Stream = answer.Stream
