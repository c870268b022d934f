import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
from sanic import Sanic

from api import sse
from shared.errors import QueueFull
from tests.api.asking import CHAT, chat, events
from tests.api.conftest import ServeApp

KEEPALIVE = 0.05
Frames = Callable[[], AsyncIterator[bytes]]


def route(frames: Frames, keepalive: float = 10) -> Callable[[Sanic], None]:
    def extend(app: Sanic) -> None:
        @app.get("/stream")
        async def stream(request):
            await sse.respond(request, frames(), keepalive)

    return extend


async def test_an_error_before_the_first_event_has_its_own_status(serve_app: ServeApp) -> None:
    async def frames() -> AsyncIterator[bytes]:
        raise QueueFull("full", retry_after=7)
        yield b""

    async with serve_app(route(frames)) as client:
        answer = await client.get("/stream")

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["code"] == "queue_full"


async def test_an_error_after_it_is_the_last_frame(serve_app: ServeApp) -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield sse.frame(1)
        raise QueueFull("full")

    async with serve_app(route(frames)) as client:
        answer = await client.get("/stream")

    assert answer.status_code == 200
    first, last = events(answer.text)
    assert first == {"data": "1"}
    assert '"error":{"message":"full"' in last["data"]


async def test_silence_is_filled_with_pings_before_and_after_the_first_event(serve_app: ServeApp) -> None:
    async def frames() -> AsyncIterator[bytes]:
        await asyncio.sleep(5 * KEEPALIVE)
        yield sse.frame(1)
        await asyncio.sleep(5 * KEEPALIVE)

    async with serve_app(route(frames, KEEPALIVE)) as client:
        answer = await client.get("/stream")

    before, _, after = answer.text.partition("data: 1\n\n")
    assert before.startswith(": ping\n\n")
    assert after.startswith(": ping\n\n")


async def test_an_error_after_a_ping_is_a_frame(serve_app: ServeApp) -> None:
    async def frames() -> AsyncIterator[bytes]:
        await asyncio.sleep(3 * KEEPALIVE)
        raise QueueFull("full")
        yield b""

    async with serve_app(route(frames, KEEPALIVE)) as client:
        answer = await client.get("/stream")

    assert answer.status_code == 200
    assert '"code":"queue_full"' in events(answer.text)[-1]["data"]


async def test_what_is_ready_together_is_taken_together() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"
        await asyncio.sleep(0)
        yield b"c"

    outbox = sse.Outbox(10, QueueFull("unused"))
    await outbox.fill(frames())
    outbox.close()

    assert [await outbox.take(), await outbox.take()] == [b"abc", b""]


async def test_the_frames_are_closed_when_the_client_leaves(serve_app: ServeApp) -> None:
    closed = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        try:
            yield sse.frame(1)
            await asyncio.sleep(60)
        finally:
            closed.set()

    async with serve_app(route(frames)) as client:
        async with client.stream("GET", "/stream") as answer:
            await anext(answer.aiter_raw())
        await asyncio.wait_for(closed.wait(), 10)


def test_a_streamed_chat_is_chunks_and_done(http: httpx.Client) -> None:
    answer = http.post(CHAT, json=chat(stream=True))

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-job-id"].startswith("job-")
    assert events(answer.text)[-1] == {"data": "[DONE]"}


def test_a_job_that_fails_before_it_speaks_answers_with_its_status(http: httpx.Client) -> None:
    answer = http.post(CHAT, json=chat(stream=True, script={"raise_in": "prepare"}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")


def test_a_job_that_fails_after_it_spoke_ends_with_an_error_frame(http: httpx.Client) -> None:
    script = {"tokens": 9, "hang_at": 2, "hang_ms": 50, "fail_at": 3}
    answer = http.post(CHAT, json=chat(stream=True, script=script))

    assert answer.status_code == 200
    assert events(answer.text)[-1]["data"].startswith('{"error":')
