"""Bodies of requests, read under a limit: JSON into memory, files straight to a blob."""

from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import Any

import msgspec
import orjson
from python_multipart.multipart import parse_options_header
from sanic import Request

from api.form import Form
from shared.errors import BadRequest, PayloadTooLarge

MIB = 1 << 20
FLUSH = MIB  # bytes of a file that are written at once


def is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_json(request: Request, audio_at: Sequence[str] = ()) -> Any:
    """The body as JSON, whatever its content type says. `audio_at` is the way to a string of it that
    may be longer than all else. Raises PayloadTooLarge, BadRequest."""
    settings = request.app.ctx.settings
    limit = settings.max_json_mb
    body = bytearray()
    async for chunk in chunks(request, max(limit, settings.max_base64_mb) if audio_at else limit):
        body += chunk
    if len(body) > limit * MIB and len(body) - _length_at(body, audio_at) > limit * MIB:
        raise PayloadTooLarge(f"The request body beside its audio is larger than {limit} MiB.")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise BadRequest(f"The request body is not valid JSON ({where}).") from None


async def read_form(request: Request) -> Form:
    """The body as a form, its `file` in a blob. Raises PayloadTooLarge, BadRequest, OSError; nothing
    stays of it then."""
    settings = request.app.ctx.settings
    form = Form(_boundary(request), request.app.ctx.dispatch.blobs, settings.max_json_mb * MIB)
    with form.discarded_on_error():
        async for chunk in chunks(request, settings.max_upload_mb):
            form.feed(chunk)
            if form.pending >= FLUSH:
                await form.flush()
        await form.finish()
    return form


async def chunks(request: Request, limit_mb: int) -> AsyncIterator[bytes]:
    """The body in pieces. Raises PayloadTooLarge, before reading where its length is announced."""
    limit = limit_mb * MIB
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise PayloadTooLarge(f"The request body is larger than {limit_mb} MiB.")
    total = 0
    async for chunk in request.stream:
        total += len(chunk)
        if total > limit:
            raise PayloadTooLarge(f"The request body is larger than {limit_mb} MiB.")
        yield chunk


def _length_at(body: bytearray, way: Sequence[str]) -> int:
    """The length of the string at `way` in a JSON object; 0 if there is none. Nothing else is built:
    decoded, a large body may take twenty times its room."""
    try:
        level = msgspec.json.decode(body, type=_levels(way))
    except msgspec.DecodeError:
        return 0
    for name in way:
        level = getattr(level, name)
    view = memoryview(level)
    return len(view) if view[:1] == b'"' else 0


@cache
def _levels(way: Sequence[str]) -> type:
    """The type of an object in which only what is at `way` is looked at."""
    found: type = msgspec.Raw
    for name in reversed(way):
        found = msgspec.defstruct("Level", [(name, found)])
    return found


def _boundary(request: Request) -> bytes:
    if not is_form(request):
        raise BadRequest("Send this request as multipart/form-data.")
    _, options = parse_options_header(request.headers["content-type"])
    if not options.get(b"boundary"):
        raise BadRequest("The multipart body has no boundary.")
    return options[b"boundary"]
