"""What a request brings: its fields, and for a task that hears, where its recording is."""

import asyncio
import binascii
import re
from dataclasses import dataclass
from typing import Any

from sanic import Request

from api.auth import check_file_path
from api.form import Uploaded
from api.uploads import MIB, is_form, read_form, read_json
from shared.blobs import Blob
from shared.errors import BadRequest, PayloadTooLarge
from shared.paths import FIELD as PATH
from shared.paths import allowed
from shared.settings import Settings

PIECE = MIB  # characters of base64 that are decoded at once: whole groups of four
SPACE = b" \t\r\n"  # base64 is often wrapped
HOW = "Send the audio as the part 'file' of multipart/form-data, or in JSON as base64 in 'file'."
DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


@dataclass
class Body(Uploaded):
    """`fields` are as they came, but for those of the recording itself.

    `strict` is whether numbers are numbers: in a form they are strings.
    """

    fields: Any
    strict: bool = True
    blob: Blob | None = None
    path: str | None = None
    filename: str | None = None


async def read_body(request: Request, hears: bool) -> Body:
    """The body of a request to a task; `hears` is whether that takes a recording. Raises OminixError,
    OSError; nothing stays of an upload then."""
    if not hears:
        if is_form(request):
            raise BadRequest("Send this request as JSON.")
        return Body(await read_json(request))
    if is_form(request):
        return await read_form_body(request)
    if request.headers.get("content-type", "").lower().startswith(("audio/", "video/")):
        raise BadRequest(HOW, param="file")
    return await from_json(request, await read_json(request, audio_at=("file",)))


async def read_form_body(request: Request) -> Body:
    form = await read_form(request)
    path = form.fields.pop(PATH, None)
    return Body(form.fields, False, form.blob, path, form.filename)


async def from_json(request: Request, raw: Any) -> Body:
    """A decoded JSON object; audio in its `file` goes to a blob."""
    if not isinstance(raw, dict):
        return Body(raw)  # whoever validates it says so
    fields = dict(raw)
    file, path, filename = (_text(name, fields.pop(name, None)) for name in ("file", PATH, "filename"))
    body = Body(fields, path=path, filename=filename)
    if file is not None:
        body.blob = request.app.ctx.dispatch.blobs.create()
        with body.discarded_on_error():
            await asyncio.to_thread(_decode, file, body.blob)
    return body


async def check_recording(request: Request, body: Body) -> None:
    """Make sure of exactly one recording that may be heard, and of its path. Raises OminixError."""
    if body.blob and body.path is not None:
        raise BadRequest(f"Send 'file' or '{PATH}', not both.", param=PATH)
    if body.path is not None:
        check_file_path(request)
        body.path = await asyncio.to_thread(_located, _text(PATH, body.path), request.app.ctx.settings)
    elif body.blob is None:
        raise BadRequest(
            f"Missing required parameter: 'file' (or '{PATH}').",
            param="file",
            code="missing_required_parameter",
        )
    elif body.blob.size == 0:
        raise BadRequest("The uploaded file is empty.", param="file", code="invalid_audio")


def _located(path: str, settings: Settings) -> str:
    real = allowed(path, settings.audio_folder_paths)
    size = real.stat().st_size
    if size == 0:
        raise BadRequest(f"The file at '{PATH}' is empty.", param=PATH, code="invalid_audio")
    if size > settings.max_upload_mb * MIB:
        limit = f"{settings.max_upload_mb} MiB"
        raise PayloadTooLarge(f"The file at '{PATH}' is larger than {limit}.", param=PATH)
    return str(real)


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise BadRequest(f"'{name}' must be a string.", param=name)


def _decode(text: str, blob: Blob) -> None:
    """Base64, perhaps in a data URL, into a blob, which is then closed."""
    head = DATA_URL.match(text, endpos=256)
    encoded = text[head.end() if head else 0 :].encode().translate(None, SPACE)
    try:
        for at in range(0, len(encoded), PIECE):  # in pieces: other threads want the GIL too
            piece = binascii.a2b_base64(encoded[at : at + PIECE], strict_mode=True)
            blob.write(piece)
            if at + PIECE < len(encoded) and len(piece) != PIECE // 4 * 3:
                raise binascii.Error("Excess data after padding")
    except binascii.Error as error:
        raise BadRequest(f"'file' is not valid base64: {error}.", param="file") from error
    blob.close()
