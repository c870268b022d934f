"""POST /v1/completions"""

from sanic import HTTPResponse, Request, Sanic

from api import inference
from shared.tasks import completion


def register(app: Sanic) -> None:
    app.add_route(create, completion.ENDPOINT, methods=["POST"], name="completions", stream=True)


async def create(request: Request) -> HTTPResponse | None:
    return await inference.create(request, "completion")
