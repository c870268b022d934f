"""GET /health"""

from sanic import HTTPResponse, Request, Sanic
from sanic.response import json

PATHS = {
    "/health": {
        "get": {
            "summary": "Whether requests are served",
            "description": "`ok` while every model has a live worker, else `degraded`.",
            "responses": {
                "200": {"description": "status, version, and of each model ready, waiting, running, hosts"},
                "503": {"description": "The queue cannot be reached"},
            },
        }
    }
}


def register(app: Sanic) -> None:
    app.add_route(health, "/health", methods=["GET", "HEAD"], name="health", ignore_body=True)


async def health(request: Request) -> HTTPResponse:
    status, body = await request.app.ctx.dispatch.health()
    return json(body, status=status)
