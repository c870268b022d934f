"""Bodies of requests, read under a limit: JSON into memory, files straight to a blob."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
from python_multipart.multipart import parse_options_header
from sanic import Request

from api.form import Form
from shared.errors import BadRequest, PayloadTooLarge

MIB = 1 << 20
FLUSH = MIB  # bytes of a file that are written at once


def is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_json(request: Request) -> Any:
    """The body as JSON, whatever its content type says. Raises PayloadTooLarge, BadRequest."""
    limit = request.app.ctx.settings.max_json_mb
    body = bytearray()
    async for chunk in chunks(request, limit):
        body += chunk
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


def _boundary(request: Request) -> bytes:
    if not is_form(request):
        raise BadRequest("Send this request as multipart/form-data, with the audio in the part 'file'.")
    _, options = parse_options_header(request.headers["content-type"])
    if not options.get(b"boundary"):
        raise BadRequest("The multipart body has no boundary.")
    return options[b"boundary"]
