"""GET /v1/models and GET /v1/models/{id}"""

import asyncio
from typing import Any
from urllib.parse import unquote

from sanic import HTTPResponse, Request, Sanic
from sanic.response import json

from shared.disk import describe, is_whole
from shared.errors import NotFound
from shared.manifest import ModelEntry
from shared.tasks import tasks

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
            "responses": {"200": {"description": "A model object"}, "404": {"description": "No such model"}},
        }
    },
}


def register(app: Sanic) -> None:
    app.add_route(index, "/v1/models", methods=["GET"], name="models", ignore_body=True)
    app.add_route(get, "/v1/models/<model:path>", methods=["GET"], name="model", ignore_body=True)


async def index(request: Request) -> HTTPResponse:
    ctx = request.app.ctx
    running = await ctx.dispatch.running_models()
    data = await asyncio.to_thread(_present, ctx.manifest.entries, ctx.settings.models_dir, running)
    return json({"object": "list", "data": data})


async def get(request: Request, model: str) -> HTTPResponse:
    ctx = request.app.ctx
    entry = ctx.manifest.resolve(unquote(model))
    running = await ctx.dispatch.running_models()
    found = await asyncio.to_thread(_present, [entry], ctx.settings.models_dir, running)
    if not found:
        raise NotFound(
            f"The model '{entry.id}' has not been downloaded yet.", param="model", code="model_not_found"
        )
    return json(found[0])


def _present(entries: Any, models_dir: Any, running: dict[str, dict]) -> list[dict]:
    return [_view(entry, models_dir, running) for entry in entries if is_whole(entry, models_dir)]


def _view(entry: ModelEntry, models_dir: Any, running: dict[str, dict]) -> dict[str, Any]:
    facts = describe(entry, models_dir)
    return {
        "id": entry.id,
        "object": "model",
        "created": facts["downloaded_at"] or 0,
        "owned_by": entry.repo_id.split("/")[0] if entry.repo_id else "ominix",
        "loaded": running.get(entry.id, {}).get("ready", 0) > 0,
        "endpoints": [tasks()[task].ENDPOINT for task in entry.tasks],
        **facts,
    }
