"""POST /v1/embeddings"""

from sanic import HTTPResponse, Request, Sanic

from api import inference
from shared.tasks import embedding


def register(app: Sanic) -> None:
    app.add_route(create, embedding.ENDPOINT, methods=["POST"], name="embeddings", stream=True)


async def create(request: Request) -> HTTPResponse | None:
    return await inference.create(request, "embedding")
