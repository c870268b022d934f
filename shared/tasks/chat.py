"""Chat completions, in the shapes of `openai.types.chat`."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.errors import BadRequest
from shared.events import Delta, Done
from shared.jobs import JobSpec, Lane
from shared.validation import not_supported
from shared.validation import validate as convert

ENDPOINT = "/v1/chat/completions"
FILE = False
RESUMES = False
STREAM_END = "[DONE]"

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Positive = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]


class Part(msgspec.Struct):
    """A part of a message's content; only `type: "text"` is served."""

    type: str
    text: str = ""


class Message(msgspec.Struct, omit_defaults=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A chat completion request. Fields that OpenAI has and this server does not yet honour are a 400."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=4)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


UNSUPPORTED: dict[str, tuple] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "store": (False,),
    "verbosity": ("medium",),
    "webhook_url": (),
}


def validate(raw: Any, strict: bool = True) -> Request:
    request = convert(raw, Request, UNSUPPORTED, strict=strict)
    for index, message in enumerate(request.messages):
        _check_message(message, raw["messages"][index], f"messages[{index}]")
    for token in request.logit_bias or ():
        if not token.isdigit():
            raise BadRequest("The keys of 'logit_bias' are token ids.", param="logit_bias")
    if request.stream_options and not request.stream:
        raise BadRequest("'stream_options' is only allowed with 'stream': true.", param="stream_options")
    return request


def _check_message(message: Message, raw: dict, where: str) -> None:
    for field in ("tool_calls", "function_call", "audio"):
        if raw.get(field):
            raise not_supported(f"{where}.{field}", None, ())
    if isinstance(message.content, list):
        for at, part in enumerate(message.content):
            if part.type != "text":
                raise not_supported(f"{where}.content[{at}].type", part.type, ("text",))
    elif message.content is None and message.role != "assistant":
        raise BadRequest(
            f"'{where}.content' must be a string or a list of parts.", param=f"{where}.content"
        )


def lane(request: Request, detached: bool) -> Lane:
    return "batch" if request.service_tier == "flex" else "interactive"


def body(spec: JobSpec, said: list[Delta], done: Done) -> dict:
    message = {"role": "assistant", "content": done.result["text"], "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": done.result["finish_reason"],
    }
    return _envelope(spec, "chat.completion") | {"choices": [choice], "usage": done.usage}


class Stream:
    """The chunks of one streamed answer; the role comes with the first."""

    def __init__(self, spec: JobSpec) -> None:
        self._head = _envelope(spec, "chat.completion.chunk")
        options = spec.params.get("stream_options") or {}
        self._with_usage = bool(options.get("include_usage"))
        self._begun = False

    def delta(self, event: Delta) -> list[dict]:
        return self._begin() + ([self._chunk({"content": event.text})] if event.text else [])

    def done(self, event: Done) -> list[dict]:
        frames = self._begin() + [self._chunk({}, event.result["finish_reason"])]
        if self._with_usage:
            frames.append(self._head | {"choices": [], "usage": event.usage})
        return frames

    def _begin(self) -> list[dict]:
        if self._begun:
            return []
        self._begun = True
        return [self._chunk({"role": "assistant", "content": "", "refusal": None})]

    def _chunk(self, delta: dict, finish_reason: str | None = None) -> dict:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._head | {"choices": [choice]} | ({"usage": None} if self._with_usage else {})


def _envelope(spec: JobSpec, kind: str) -> dict:
    """Derived from the job alone, so that reading a job twice gives the same answer."""
    return {
        "id": f"chatcmpl-{spec.id.removeprefix('job-')}",
        "object": kind,
        "created": int(spec.created),
        "model": spec.model,
        "service_tier": "flex" if spec.lane == "batch" else "default",
        "system_fingerprint": None,
    }
