"""The real app in the test's own loop, on a real socket, over the live system's Redis."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import msgspec
import pytest
from sanic import Sanic

from api import serve
from api.app import create_app
from shared.catalog import Catalog
from tests.live import Live

ServeApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def serve_app(live: Live) -> ServeApp:
    """`async with serve_app(extend=…, **settings) as client`: `extend(app)` may add routes."""

    @asynccontextmanager
    async def serve_app(
        extend: Callable[[Sanic], None] = lambda app: None, **changes: object
    ) -> AsyncIterator[httpx.AsyncClient]:
        settings = msgspec.structs.replace(live.settings, **changes)
        app = create_app(settings, Catalog(settings))
        app.config.TOUCHUP = False  # it rewrites Sanic's classes, which several apps share here
        extend(app)
        listener = socket.create_server(("127.0.0.1", 0))
        server = await serve.start(app, listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=20) as client:
                yield client
        finally:
            await serve.stop(app, server, 1, asyncio.Event())
            Sanic.unregister_app(app)

    return serve_app


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    """A client of the live system."""
    with httpx.Client(base_url=live.url, timeout=20) as client:
        yield client
