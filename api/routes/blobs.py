"""GET /v1/blobs/{key}: a job's audio, for a worker on another host that has a signed link to it."""

import asyncio
import base64
import hashlib
import os
from typing import BinaryIO

from sanic import Request, Sanic

from api.openapi import error_responses
from shared import links
from shared.errors import NotFound
from shared.paths import allowed

PIECE = 1 << 20  # bytes
KEY = {"name": "key", "in": "path", "required": True, "schema": {"type": "string"}}
PATHS = {
    "/v1/blobs/{key}": {
        "get": {
            "summary": "A job's audio, for workers on other hosts: by a signed link, without an API key",
            "parameters": [
                KEY,
                *(
                    {"name": name, "in": "query", "required": True, "schema": {"type": "string"}}
                    for name in ("expires", "signature")
                ),
            ],
            "security": [],
            "responses": {
                "200": {"description": "The bytes, with their SHA-256 in Repr-Digest"},
                **error_responses("403", "404"),
            },
        }
    }
}


def register(app: Sanic) -> None:
    app.add_route(get, f"{links.PREFIX}<key:str>", methods=["GET"], name="blob", ignore_body=True)


async def get(request: Request, key: str) -> None:
    """`key` is a blob's, or the id of a job that names a file of this machine."""
    secret, now = await request.app.ctx.hosts.secret_and_time()
    links.check(secret, key, request.args.get("expires", ""), request.args.get("signature", ""), now)
    file = await _open(request, key)
    try:
        digest = (await asyncio.to_thread(hashlib.file_digest, file, "sha256")).digest()
        headers = {
            "content-length": str(await asyncio.to_thread(file.seek, 0, os.SEEK_END)),
            "repr-digest": f"sha-256=:{base64.b64encode(digest).decode()}:",  # RFC 9530
            "cache-control": "no-store",
        }
        await asyncio.to_thread(file.seek, 0)
        response = await request.respond(headers=headers, content_type="application/octet-stream")
        while piece := await asyncio.to_thread(file.read, PIECE):
            await response.send(piece)
        await response.eof()
    finally:
        await asyncio.to_thread(file.close)


async def _open(request: Request, key: str) -> BinaryIO:
    """Raises NotFound; for the file of a job also Forbidden, BadRequest."""
    ctx = request.app.ctx
    if key.startswith("job-"):
        path = (await ctx.dispatch.spec(key)).path
        if path:
            return await asyncio.to_thread(lambda: open(allowed(path, ctx.settings.audio_folder_paths), "rb"))
    else:
        try:
            return await asyncio.to_thread(ctx.dispatch.blobs.open, key)
        except (FileNotFoundError, ValueError):
            pass
    raise NotFound("The audio of this job is no longer here.")
