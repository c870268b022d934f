"""GET /v1/models, GET and DELETE /v1/models/{id}, POST /v1/models/download"""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sanic import HTTPResponse, Request, Sanic
from sanic.response import json

from api.openapi import error_responses, json_body
from api.uploads import chunks, read_json
from shared.catalog import target
from shared.disk import describe, is_remote, is_whole, partials
from shared.errors import Conflict, NotFound
from shared.management import delete, download
from shared.manifest import ModelEntry
from shared.tasks import tasks

MODEL = "/v1/models/<model:path>"
ID = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
PATHS = {
    "/v1/models": {
        "get": {
            "summary": "The models that are on disk",
            "responses": {"200": {"description": "A list of model objects"}},
        }
    },
    "/v1/models/{model}": {
        "get": {
            "summary": "One model, by its id, an alias or its whole hub repo id",
            "parameters": [ID],
            "responses": {"200": {"description": "A model object"}, **error_responses("404")},
        },
        "delete": {
            "summary": "Delete a model's files",
            "description": "Of a model that nobody uses, with what there is of an interrupted download. "
            "One of the models file can be downloaded again.",
            "parameters": [ID],
            "responses": {
                "200": {"description": "id, object, deleted"},
                **error_responses("400", "403", "404", "409", "503"),
            },
        },
    },
    download.ENDPOINT: {
        "post": {
            "summary": "Fetch a model from the Hugging Face hub",
            "description": "The job says how far it is; cancelled, it leaves what has come for the next "
            "time. The model can be asked for as soon as it is whole.",
            "requestBody": json_body("download"),
            "responses": {
                "202": {"description": "status, id, repo_id, job_id"},
                **error_responses("400", "403", "409", "503"),
            },
        }
    },
}


def register(app: Sanic) -> None:
    app.add_route(index, "/v1/models", methods=["GET"], name="models", ignore_body=True)
    app.add_route(get, MODEL, methods=["GET"], name="model", ignore_body=True)
    app.add_route(remove, MODEL, methods=["DELETE"], name="model_delete", stream=True)
    app.add_route(fetch, download.ENDPOINT, methods=["POST"], name="model_download", stream=True)


async def index(request: Request) -> HTTPResponse:
    ctx = request.app.ctx
    running = await ctx.dispatch.running_models()
    data = await asyncio.to_thread(_present, ctx.catalog.manifest.entries, ctx.settings.models_dir, running)
    return json({"object": "list", "data": data})


async def get(request: Request, model: str) -> HTTPResponse:
    ctx = request.app.ctx
    entry = ctx.catalog.manifest.resolve(unquote(model))
    running = await ctx.dispatch.running_models()
    found = await asyncio.to_thread(_present, [entry], ctx.settings.models_dir, running)
    if not found:
        raise NotFound(
            f"The model '{entry.id}' has not been downloaded yet.", param="model", code="model_not_found"
        )
    return json(found[0])


async def fetch(request: Request) -> HTTPResponse:
    ctx = request.app.ctx
    asked = download.validate(await read_json(request))
    entry = target(ctx.catalog.manifest, asked)
    if await asyncio.to_thread(is_whole, entry, ctx.settings.models_dir):
        raise Conflict(
            f"'{entry.id}' is here already, from {entry.source}. Delete it first to fetch it again.",
            param="repo_id",
        )
    spec = await ctx.dispatch.manage("download", asked, entry.id, alone=True)
    request.ctx.job_id = spec.id
    said = {"status": "downloading", "id": entry.id, "repo_id": asked.repo_id, "job_id": spec.id}
    return json(said, status=202, headers={"location": f"/v1/jobs/{spec.id}"})


async def remove(request: Request, model: str) -> HTTPResponse:
    async for _ in chunks(request, request.app.ctx.settings.max_json_mb):
        pass  # clients send {} or nothing
    ctx = request.app.ctx
    asked = delete.validate({"model": unquote(model)})
    entry = ctx.catalog.manifest.find(asked.model)
    await ctx.dispatch.check_alone(entry.id if entry else asked.model.rpartition("/")[2])
    model = await asyncio.to_thread(_deletable, entry, asked.model, ctx.settings.models_dir)
    spec = await ctx.dispatch.manage("delete", asked, model, alone=True)
    request.ctx.job_id = spec.id
    said, done = await ctx.dispatch.result(spec.id)
    await ctx.dispatch.look_again()
    return json(delete.body(spec, said, done))


def _deletable(entry: ModelEntry | None, name: str, models_dir: Path) -> str:
    """The id of a model of which there are files that are ours. Raises NotFound and Conflict."""
    if entry and not is_remote(entry):
        what = f"the folder {entry.source}" if entry.source else "nothing on the disk"
        raise Conflict(f"'{entry.id}' is {what}, which OminiX has not downloaded and does not delete.")
    model = entry.id if entry else name.rpartition("/")[2]
    if not (entry and is_whole(entry, models_dir)) and not partials(model, models_dir):
        raise NotFound(f"There are no files of a model '{name}' here: GET /v1/models lists what there is.")
    return model


def _present(entries: Any, models_dir: Any, running: dict[str, dict]) -> list[dict]:
    return [
        _view(entry, models_dir, running)
        for entry in entries
        if is_whole(entry, models_dir) or running.get(entry.id, {}).get("hosts")  # on another host
    ]


def _view(entry: ModelEntry, models_dir: Any, running: dict[str, dict]) -> dict[str, Any]:
    facts = describe(entry, models_dir, is_whole(entry, models_dir))
    return {
        "id": entry.id,
        "object": "model",
        "created": facts["downloaded_at"] or 0,
        "owned_by": entry.repo_id.split("/")[0] if entry.repo_id else "ominix",
        "loaded": running.get(entry.id, {}).get("ready", 0) > 0,
        "hosts": running.get(entry.id, {}).get("hosts", {}),
        "endpoints": [tasks()[task].ENDPOINT for task in entry.tasks],
        **facts,
    }
