"""The fields that transcription and translation have in common, and what they may be."""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from shared.errors import BadRequest
from shared.jobs import Lane
from shared.validation import validate as convert

Milliseconds = Annotated[int, Meta(ge=0)]


class VoiceDetection(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a recording is cut at silence; None leaves a value to the server."""

    type: Literal["server_vad"]
    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    prefix_padding_ms: Milliseconds | None = None
    silence_duration_ms: Milliseconds | None = None


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The fields beside the audio itself."""

    model: str
    language: Annotated[str, Meta(min_length=2)] | None = None  # spoken: ISO 639-1 code or English name
    prompt: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] | None = None
    timestamp_granularities: list[Literal["word", "segment"]] | None = None
    include: list[Literal["logprobs"]] | None = None
    chunking_strategy: Literal["auto"] | VoiceDetection | None = None
    stream: bool | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None


UNSUPPORTED: dict[str, tuple] = {
    "known_speaker_names": ([],),
    "known_speaker_references": ([],),
    "keywords": ([],),
    "languages": ([],),
    "webhook_url": (),
}
LISTS = ("timestamp_granularities", "include", "known_speaker_names", "known_speaker_references", "keywords",
         "languages")
OBJECTS = ("chunking_strategy",)
BRACKETS = re.compile(r"(\w+)\[(\w*)\]")

Kind = TypeVar("Kind", bound=Request)


def validate(raw: Any, kind: type[Kind], strict: bool) -> Kind:
    """`raw` as a `kind`; `strict=False` reads a form's strings. Raises BadRequest naming the field."""
    if isinstance(raw, dict):
        raw = _unbracketed(raw)
        if not strict:
            raw |= {name: _from_form(name, raw[name]) for name in (*LISTS, *OBJECTS) if name in raw}
    request = convert(raw, kind, UNSUPPORTED, strict=strict)
    _check_combinations(request)
    return request


def lane(request: Request, detached: bool) -> Lane:
    """Work that nobody waits for on a connection stands behind that of those who do, unless it is
    asked for otherwise."""
    waits = detached and request.service_tier not in ("default", "priority")
    return "batch" if waits or request.service_tier == "flex" else "interactive"


def _unbracketed(raw: dict[str, Any]) -> dict[str, Any]:
    """`name[]` and `name[key]`, as OpenAI's clients spell lists and objects in a form, under `name`."""
    plain = {name: value for name, value in raw.items() if not _is_bracketed(name)}
    for spelled, value in raw.items():
        if not _is_bracketed(spelled):
            continue
        name, key = BRACKETS.fullmatch(spelled).groups()
        if name in LISTS:
            plain[name] = [*_as_list(plain.get(name)), *_as_list(value)]
        elif isinstance(plain.setdefault(name, {}), dict):
            plain[name] = plain[name] | {key: value}
        else:
            raise BadRequest(f"'{name}' is given twice, as '{name}' and '{spelled}'.", param=name)
    return plain


def _is_bracketed(name: str) -> bool:
    match = BRACKETS.fullmatch(name)
    return match is not None and match[1] in (*LISTS, *OBJECTS)


def _as_list(value: Any) -> list:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _from_form(name: str, value: Any) -> Any:
    """A form has no lists or objects: one value stands for a list of it, and JSON for an object."""
    if name in LISTS:
        return _as_list(value)
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise BadRequest(f"'{name}' is not valid JSON: {error}.", param=name) from error


def _check_combinations(request: Request) -> None:
    format = request.response_format or "json"
    if request.timestamp_granularities and format != "verbose_json":
        raise BadRequest(
            "'timestamp_granularities' is only allowed with 'response_format' verbose_json.",
            param="timestamp_granularities",
        )
    if request.include and format != "json":
        raise BadRequest("'include' is only allowed with 'response_format' json.", param="include")
    if request.stream and format in ("srt", "vtt"):
        raise BadRequest(
            f"'stream' is not allowed with 'response_format' {format}; it may be json, text or verbose_json.",
            param="stream",
        )
