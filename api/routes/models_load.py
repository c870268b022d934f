"""POST /v1/models/load and /v1/models/unload"""

from sanic import HTTPResponse, Request, Sanic
from sanic.response import json

from api.openapi import error_responses
from api.uploads import read_json
from shared.jobs import JobSpec
from shared.management import load, unload

MODEL = {"model": {"type": "string"}}
ACCEPTED = {"202": {"description": "job_id, model, status"}, **error_responses("400", "404", "503")}


def _path(summary: str, description: str, fields: dict) -> dict:
    schema = {"type": "object", "properties": fields, "required": ["model"]}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {
        "post": {
            "summary": summary,
            "description": description,
            "requestBody": body,
            "responses": ACCEPTED,
        }
    }


PATHS = {
    load.ENDPOINT: _path(
        "Load a model, or change how many workers it has",
        "`replicas`: as many workers; without it one, or as many as there are. The job says how it goes.",
        MODEL | {"replicas": {"type": "integer", "minimum": 1, "maximum": load.MOST}},
    ),
    unload.ENDPOINT: _path(
        "Unload a model",
        "Its workers finish what they run. Jobs that wait bring it back, as the next request does. With "
        "`if_idle` only if it has nothing to do.",
        MODEL | {"if_idle": {"type": "boolean"}},
    ),
}


def register(app: Sanic) -> None:
    app.add_route(start, load.ENDPOINT, methods=["POST"], name="model_load", stream=True)
    app.add_route(end, unload.ENDPOINT, methods=["POST"], name="model_unload", stream=True)


async def start(request: Request) -> HTTPResponse:
    asked = load.validate(await read_json(request))
    spec = await request.app.ctx.dispatch.change("load", asked)
    return _accepted(request, spec, "loading")


async def end(request: Request) -> HTTPResponse:
    asked = unload.validate(await read_json(request))
    spec = await request.app.ctx.dispatch.change("unload", asked)
    return _accepted(request, spec, "unloading")


def _accepted(request: Request, spec: JobSpec, status: str) -> HTTPResponse:
    request.ctx.job_id = spec.id
    body = {"job_id": spec.id, "model": spec.model, "status": status}
    return json(body, status=202, headers={"location": f"/v1/jobs/{spec.id}"})
