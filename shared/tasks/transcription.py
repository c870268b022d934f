"""Transcriptions of speech, in the shapes of `openai.types.audio`."""

from typing import Any

from shared.speech import answer, request

ENDPOINT = "/v1/audio/transcriptions"
FILE = True
RESUMES = True
STREAM_END = None


class Request(request.Request):
    """The fields beside the audio of a transcription request."""


def validate(raw: Any, strict: bool = True) -> Request:
    return request.validate(raw, Request, strict)


lane = request.lane
body = answer.body
Stream = answer.Stream
