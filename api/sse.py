"""Server-sent events: frames, pings while nothing is said, and errors before and after the head."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from sanic import Request

from api.errors import shutting_down, translate

PING = b": ping\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
CONTENT_TYPE = "text/event-stream; charset=utf-8"


def frame(data: Any) -> bytes:
    """A JSON object as one event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


class Outbox:
    """Frames that wait to be sent. What gathers while a send is under way goes out as one."""

    def __init__(self, keepalive: float, if_cancelled: Exception) -> None:
        self._if_cancelled = if_cancelled
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._ready = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None
        self._keepalive = keepalive
        self._spoke = self._loop.time()
        # one timer looks back at the clock, rather than one that each frame arms anew
        self._timer = self._loop.call_later(keepalive, self._check_silence)

    async def fill(self, frames: AsyncIterator[bytes]) -> None:
        """Put everything in; an exception is kept for `take`.

        While somebody takes, only a server that stops cancels this.
        """
        try:
            async for data in frames:
                self._put(data)
        except asyncio.CancelledError:
            self._error = self._if_cancelled
        except Exception as error:
            self._error = error
        self._ended = True
        self._ready.set()

    async def take(self) -> bytes:
        """Everything that is ready; b"" at the end. Raises what ended `fill`, once all else is taken."""
        while not self._frames and not self._ended:
            self._ready.clear()
            await self._ready.wait()
        if not self._frames and self._error:
            raise self._error
        data = b"".join(self._frames)
        self._frames.clear()
        return data

    def close(self) -> None:
        self._timer.cancel()

    def _put(self, data: bytes) -> None:
        self._frames.append(data)
        self._spoke = self._loop.time()
        self._ready.set()

    def _check_silence(self) -> None:
        left = self._spoke + self._keepalive - self._loop.time()
        if left <= 0:
            self._put(PING)
            left = self._keepalive
        self._timer = self._loop.call_later(left, self._check_silence)


async def respond(request: Request, frames: AsyncIterator[bytes], keepalive: float) -> None:
    """Answer with a stream of events.

    The head waits for the first frame, at most `keepalive` seconds, so that an error before it has
    its own status; an error after it is the stream's last frame. `frames` is closed when this returns.
    """
    outbox = Outbox(keepalive, shutting_down(getattr(request.ctx, "job_id", None)))
    reading = asyncio.create_task(outbox.fill(frames), name="sse")
    waiting: set[asyncio.Task] = request.app.ctx.waiting
    waiting.add(reading)
    try:
        await _send(request, outbox)
    finally:
        waiting.discard(reading)
        outbox.close()
        reading.cancel()
        await asyncio.wait([reading])  # who asks next whether anybody reads the job gets the truth


async def _send(request: Request, outbox: Outbox) -> None:
    data = await outbox.take()
    response = await request.respond(content_type=CONTENT_TYPE, headers=HEADERS)
    try:
        while data:
            await response.send(data)
            data = await outbox.take()
    except Exception as error:
        await response.send(frame(translate(request, error).body()))
    await response.eof()
