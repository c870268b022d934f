"""POST and GET /v1/jobs"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from sanic import HTTPResponse, Request, Sanic
from sanic.response import json

from api import inference
from api.body import Body, from_json, read_form_body
from api.openapi import error_responses
from api.uploads import is_form, read_json
from shared.errors import BadRequest
from shared.tasks import by_endpoint, tasks
from shared.validation import not_supported, validate

UNSUPPORTED: dict[str, tuple] = {"webhook_url": ()}
PATHS = {
    "/v1/jobs": {
        "post": {
            "summary": "Queue a request and answer at once",
            "description": "As JSON `endpoint` and `body`; for an endpoint that takes a `file` also as "
            "multipart/form-data with `endpoint`, `file` and the endpoint's own fields.",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {"endpoint": {"type": "string"}, "body": {"type": "object"}},
                            "required": ["endpoint", "body"],
                        }
                    }
                },
            },
            "responses": {"202": {"description": "The job object"}, **error_responses("400", "413", "429")},
        },
        "get": {
            "summary": "Jobs, newest first",
            "parameters": [
                {"name": name, "in": "query", "description": description, "schema": {"type": "string"}}
                for name, description in (
                    ("status", "queued, in_progress, completed, failed or cancelled"),
                    ("model", "only jobs of this model"),
                    ("after", "the id of the last job of the page before"),
                    ("limit", "1 to 100, by default 20"),
                )
            ],
            "responses": {"200": {"description": "A list of job objects"}, **error_responses("400")},
        },
    }
}


class Submission(msgspec.Struct):
    endpoint: str
    body: dict[str, Any]


class Query(msgspec.Struct):
    status: Literal["queued", "in_progress", "completed", "failed", "cancelled"] | None = None
    model: str | None = None
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


def register(app: Sanic) -> None:
    app.add_route(create, "/v1/jobs", methods=["POST"], name="job_create", stream=True)
    app.add_route(index, "/v1/jobs", methods=["GET"], name="jobs", ignore_body=True)


async def create(request: Request) -> HTTPResponse:
    submit = _create_from_form if is_form(request) else _create_from_json
    return await submit(request)


async def index(request: Request) -> HTTPResponse:
    query = validate(dict(request.query_args), Query, {}, strict=False)
    model = request.app.ctx.catalog.manifest.resolve(query.model).id if query.model else None
    page = await request.app.ctx.dispatch.views(
        status=query.status, model=model, after=query.after, limit=query.limit
    )
    return json(page)


async def _create_from_json(request: Request) -> HTTPResponse:
    asked = validate(await read_json(request, audio_at=("body", "file")), Submission, UNSUPPORTED)
    task = _task(asked.endpoint)
    body = await from_json(request, asked.body) if tasks()[task].FILE else Body(asked.body)
    _, spec = await inference.submit(request, task, body, detached=True)
    return await inference.accepted(request, spec)


async def _create_from_form(request: Request) -> HTTPResponse:
    body = await read_form_body(request)
    with body.discarded_on_error():
        validate({"body": {}} | body.fields, Submission, UNSUPPORTED)
        task = _task(body.fields.pop("endpoint"))
        if not tasks()[task].FILE:
            raise BadRequest(f"Jobs for {tasks()[task].ENDPOINT} are sent as JSON.", param="endpoint")
    _, spec = await inference.submit(request, task, body, detached=True)
    return await inference.accepted(request, spec)


def _task(endpoint: str) -> str:
    if endpoint not in by_endpoint():
        raise not_supported("endpoint", endpoint, tuple(by_endpoint()))
    return by_endpoint()[endpoint]
