"""POST /v1/chat/completions"""

from sanic import HTTPResponse, Request, Sanic

from api import inference
from shared.tasks import chat


def register(app: Sanic) -> None:
    app.add_route(create, chat.ENDPOINT, methods=["POST"], name="chat", stream=True)


async def create(request: Request) -> HTTPResponse | None:
    return await inference.create(request, "chat")
