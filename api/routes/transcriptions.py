"""POST /v1/audio/transcriptions"""

from sanic import HTTPResponse, Request, Sanic

from api import inference
from shared.tasks import transcription


def register(app: Sanic) -> None:
    app.add_route(create, transcription.ENDPOINT, methods=["POST"], name="transcriptions", stream=True)


async def create(request: Request) -> HTTPResponse | None:
    return await inference.create(request, "transcription")
