"""POST /v1/audio/translations"""

from sanic import HTTPResponse, Request, Sanic

from api import inference
from shared.tasks import translation


def register(app: Sanic) -> None:
    app.add_route(create, translation.ENDPOINT, methods=["POST"], name="translations", stream=True)


async def create(request: Request) -> HTTPResponse | None:
    return await inference.create(request, "translation")
