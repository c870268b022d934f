"""Translations of speech to English, in the shapes of `openai.types.audio`.

Beside OpenAI's fields it takes those of a transcription; `language` is the one that is spoken.
"""

from typing import Any

from shared.speech import answer, request

ENDPOINT = "/v1/audio/translations"
FILE = True
RESUMES = True
STREAM_END = None


class Request(request.Request):
    """The fields beside the audio of a translation request."""


def validate(raw: Any, strict: bool = True) -> Request:
    return request.validate(raw, Request, strict)


lane = request.lane
body = answer.body
Stream = answer.Stream
