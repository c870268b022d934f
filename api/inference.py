"""What every inference endpoint does, whatever the task: read, validate, submit, answer."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from types import ModuleType
from typing import Any

import orjson
from sanic import Request
from sanic.response import HTTPResponse

from api import sse
from api.auth import prefers_async
from api.body import Body, check_recording, read_body
from api.errors import shutting_down
from shared.channel import is_before_work
from shared.errors import BadRequest
from shared.events import Delta, Done, Failed
from shared.jobs import JobSpec
from shared.tasks import Plain, tasks

MAX_KEY = 255  # characters of an Idempotency-Key


async def create(request: Request, task: str) -> HTTPResponse | None:
    """Answer a request of a task's own endpoint: whole, streamed, or with a job."""
    module = tasks()[task]
    body = await read_body(request, module.FILE)
    detached = prefers_async(request)
    asked, spec = await submit(request, task, body, detached=detached)
    if detached:
        return await accepted(request, spec, {"preference-applied": "respond-async"})
    if asked.stream:
        return await _stream(request, module, spec)
    return await _whole(request, module, spec)


async def submit(request: Request, task: str, body: Body, *, detached: bool) -> tuple[Any, JobSpec]:
    """Make a job of what was asked. Returns the validated request too. Raises OminixError; an
    uploaded file is then gone."""
    module = tasks()[task]
    with body.discarded_on_error():
        asked = module.validate(body.fields, strict=body.strict)
        if module.FILE:
            await check_recording(request, body)
        spec = await request.app.ctx.dispatch.submit(
            task,
            asked,
            detached=detached,
            blob=body.blob.key if body.blob else None,
            path=body.path,
            filename=body.filename,
            idempotency_key=_idempotency_key(request),
        )
    request.ctx.job_id = spec.id
    return asked, spec


async def accepted(
    request: Request, spec: JobSpec, headers: dict[str, str] | None = None
) -> HTTPResponse:
    """202 with the job object."""
    view = await request.app.ctx.dispatch.view(spec.id)
    headers = {"location": f"/v1/jobs/{spec.id}"} | (headers or {})
    return HTTPResponse(orjson.dumps(view), 202, headers, "application/json")


async def answer(module: ModuleType, spec: JobSpec, said: list[Delta], done: Done) -> HTTPResponse:
    """The body of a synchronous call, put together in a thread if there is much to it."""
    if said:
        body = await asyncio.to_thread(module.body, spec, said, done)
    else:
        body = module.body(spec, said, done)
    if isinstance(body, Plain):
        return HTTPResponse(body.text, content_type=body.content_type)
    return HTTPResponse(orjson.dumps(body), content_type="application/json")


async def _whole(request: Request, module: ModuleType, spec: JobSpec) -> HTTPResponse:
    ctx = request.app.ctx
    with _reading(request, spec), _waiting(request, spec):
        said, done = await ctx.dispatch.result(spec.id, ctx.settings.request_timeout)
    return await answer(module, spec, said, done)


async def _stream(request: Request, module: ModuleType, spec: JobSpec) -> None:
    with _reading(request, spec):
        frames = _frames(request, module, spec)
        await sse.respond(request, frames, request.app.ctx.settings.keepalive)


async def _frames(request: Request, module: ModuleType, spec: JobSpec) -> AsyncIterator[bytes]:
    """What a streamed answer consists of. Raises the job's own error if it failed."""
    stream = module.Stream(spec)
    async with aclosing(request.app.ctx.dispatch.batches(spec.id)) as batches:
        async for batch in batches:
            objects: list[dict] = []
            for event_id, event in batch:
                if isinstance(event, Delta) and not is_before_work(event_id):
                    objects += stream.delta(event)
                elif isinstance(event, Done):
                    objects += stream.done(event)
            if objects:
                yield b"".join(map(sse.frame, objects))
    if isinstance(event, Failed):
        raise event.error()
    if module.STREAM_END:
        yield b"data: " + module.STREAM_END.encode() + b"\n\n"


@contextmanager
def _reading(request: Request, spec: JobSpec) -> Iterator[None]:
    """A client that leaves takes its job with it; a server that stops does not."""
    try:
        yield
    except asyncio.CancelledError:
        if not request.app.ctx.stopping:
            request.app.ctx.dispatch.leave(spec)
        raise


@contextmanager
def _waiting(request: Request, spec: JobSpec) -> Iterator[None]:
    """Let a server that stops cut the wait short with an answer."""
    task = asyncio.current_task()
    request.app.ctx.waiting.add(task)
    try:
        yield
    except asyncio.CancelledError:
        if not request.app.ctx.stopping:
            raise
        task.uncancel()
        raise shutting_down(spec.id) from None
    finally:
        request.app.ctx.waiting.discard(task)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable()):
        raise BadRequest(
            f"'Idempotency-Key' must have 1 to {MAX_KEY} printable characters.", param="Idempotency-Key"
        )
    return key
