"""GET /v1/jobs/{id}/events"""

from collections.abc import AsyncIterator
from contextlib import aclosing

from sanic import HTTPResponse, Request, Sanic
from sanic.response import empty

from api import sse
from api.openapi import error_responses
from api.routes.job import ID, JOB
from shared.channel import END, parse_id
from shared.errors import BadRequest
from shared.events import encode

START = "0-0"
PATHS = {
    "/v1/jobs/{job_id}/events": {
        "get": {
            "summary": "What a job says: from the start or from `Last-Event-ID`, then live",
            "parameters": [
                *ID,
                {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}},
            ],
            "responses": {
                "200": {
                    "description": "Any number of `delta`, then one `done` or `failed`",
                    "content": {"text/event-stream": {"schema": {"type": "string"}}},
                },
                "204": {"description": "`Last-Event-ID` was the last event"},
                **error_responses("400", "404"),
            },
        }
    }
}


def register(app: Sanic) -> None:
    app.add_route(events, f"{JOB}/events", methods=["GET"], name="job_events", ignore_body=True)


async def events(request: Request, job_id: str) -> HTTPResponse | None:
    after = request.headers.get("last-event-id", START)
    await request.app.ctx.dispatch.spec(job_id)
    request.ctx.job_id = job_id
    if _is_end(after):
        return empty()  # 204 tells an EventSource not to come back
    frames = _frames(request, job_id, after)
    return await sse.respond(request, frames, request.app.ctx.settings.keepalive)


async def _frames(request: Request, job_id: str, after: str) -> AsyncIterator[bytes]:
    async with aclosing(request.app.ctx.dispatch.batches(job_id, after)) as batches:
        async for batch in batches:
            yield b"".join(
                b"id: %b\nevent: %b\ndata: %b\n\n"
                % (event_id.encode(), event.__struct_config__.tag.encode(), encode(event))
                for event_id, event in batch
            )


def _is_end(after: str) -> bool:
    """Whether there is nothing after this id. Raises BadRequest for what is no id of an event."""
    try:
        return parse_id(after) >= END
    except ValueError:
        raise BadRequest(
            "'Last-Event-ID' must be the id of an event, such as 1-12.", param="Last-Event-ID"
        ) from None
