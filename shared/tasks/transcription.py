"""Transcriptions of speech, in the shapes of `openai.types.audio`."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.events import Delta, Done
from shared.jobs import JobSpec, Lane
from shared.validation import validate as convert

ENDPOINT = "/v1/audio/transcriptions"
FILE = True
STREAM_END = None


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The fields beside `file` of a transcription request (multipart/form-data)."""

    model: str
    language: Annotated[str, Meta(min_length=2)] | None = None  # ISO 639-1 code or English name
    prompt: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    response_format: Literal["json", "text"] | None = None
    stream: bool | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None


UNSUPPORTED: dict[str, tuple] = {
    "timestamp_granularities": ([],),
    "timestamp_granularities[]": ([],),
    "include": ([],),
    "include[]": ([],),
    "chunking_strategy": ("auto",),
    "known_speaker_names": ([],),
    "known_speaker_names[]": ([],),
    "known_speaker_references": ([],),
    "known_speaker_references[]": ([],),
    "webhook_url": (),
}


def validate(raw: Any, strict: bool = False) -> Request:
    return convert(raw, Request, UNSUPPORTED, strict=strict)


def lane(request: Request) -> Lane:
    return "batch" if request.service_tier == "flex" else "interactive"


def body(spec: JobSpec, done: Done) -> dict | str:
    text = done.result["text"]
    if spec.params.get("response_format") == "text":
        return text + "\n"
    return {"text": text, "usage": done.usage}


class Stream:
    """Server-sent events as OpenAI's `TranscriptionStreamEvent`."""

    def __init__(self, spec: JobSpec) -> None:
        pass

    def delta(self, event: Delta) -> list[dict]:
        return [{"type": "transcript.text.delta", "delta": event.text}] if event.text else []

    def done(self, event: Done) -> list[dict]:
        return [
            {"type": "transcript.text.done", "text": event.result["text"], "usage": event.usage}
        ]
