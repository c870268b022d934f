"""What requests for text have in common, whether it is an answer in a chat or the rest of a prompt."""

import re
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta

from shared.errors import BadRequest
from shared.jobs import JobSpec, Lane
from shared.validation import not_supported

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
Format = Literal["text", "json_object", "json_schema", "grammar"]

TOKEN_ID = re.compile(r"[0-9]{1,9}")


class StreamOptions(msgspec.Struct, omit_defaults=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # true is refused: chunks are not padded


class ResponseFormatBase(msgspec.Struct, tag_field="type", omit_defaults=True):
    @property
    def type(self) -> Format:
        return self.__struct_config__.tag


class TextFormat(ResponseFormatBase, tag="text"):
    """Anything."""


class JsonObjectFormat(ResponseFormatBase, tag="json_object"):
    """Any JSON object."""


class JsonSchema(msgspec.Struct, omit_defaults=True):
    """A JSON Schema; it is enforced whether `strict` or not."""

    name: Name
    schema: dict[str, Any]
    strict: bool | None = None
    description: str | None = None


class JsonSchemaFormat(ResponseFormatBase, tag="json_schema"):
    json_schema: JsonSchema


class Grammar(msgspec.Struct):
    """What the whole text must match."""

    syntax: Literal["regex", "lark"]
    definition: Text


class GrammarFormat(ResponseFormatBase, tag="grammar"):
    """This server's own, in the shape of the grammars of OpenAI's custom tools."""

    grammar: Grammar


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat | GrammarFormat


class Generation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The fields that chat and completion share. None leaves a value to the model."""

    model: str
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Natural | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Positive | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=4)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    response_format: ResponseFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    service_tier: ServiceTier | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=512)] | None = None

    @property
    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def choices(self) -> int:
        """How many answers a prompt gets."""
        return self.n or 1

    @property
    def constrained(self) -> bool:
        """Whether not every text will do."""
        return self.response_format is not None and self.response_format.type != "text"


def check_depth(raw: Any, *fields: str) -> None:
    """Refuse fields of free JSON that are nested deeper than orjson writes (254): other readers on the
    way of a job would stumble over them. Raises BadRequest."""
    for field in fields if isinstance(raw, dict) else ():
        try:
            orjson.dumps(raw.get(field))
        except TypeError as error:
            raise BadRequest(f"'{field}' is nested too deeply.", param=field) from error


def check(request: Generation) -> None:
    """What the types of the fields do not say. Raises BadRequest."""
    for token in request.logit_bias or ():
        if not TOKEN_ID.fullmatch(token):
            raise BadRequest("The keys of 'logit_bias' are token ids.", param="logit_bias")
    if options := request.stream_options:
        if not request.stream:
            raise BadRequest("'stream_options' is only allowed with 'stream': true.", param="stream_options")
        if options.include_obfuscation:
            raise not_supported("stream_options.include_obfuscation", True, (False,))


def missing(param: str) -> BadRequest:
    return BadRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def lane(request: Generation, detached: bool) -> Lane:
    return "batch" if request.service_tier == "flex" else "interactive"


def envelope(spec: JobSpec, prefix: str, kind: str) -> dict[str, Any]:
    """The head of an answer or a chunk. Derived from the job alone, so that reading a job twice gives
    the same answer."""
    return {
        "id": f"{prefix}-{spec.id.removeprefix('job-')}",
        "object": kind,
        "created": int(spec.created),
        "model": spec.model,
        "system_fingerprint": None,
    }
