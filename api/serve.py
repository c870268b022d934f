"""The server's life: listen, serve, and on SIGTERM or SIGINT end without cutting anybody off."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from sanic import Sanic
from sanic.application.state import ApplicationServerInfo
from sanic.http.constants import HTTP
from sanic.server.async_server import AsyncioServer

from shared.settings import Settings

try:
    from uvloop import new_event_loop
except ImportError:  # no wheel for this platform
    from asyncio import new_event_loop

BACKLOG = 1024
WATCH = 1.0  # seconds between looks at whether the supervisor lives
POLL = 0.05  # seconds between looks at whether a connection has ended
FAREWELL = 2.0  # seconds to tell those that would have waited longer

log = logging.getLogger("ominix.api")


def run(make_app: Callable[[], Sanic], settings: Settings) -> int:
    """Serve until a signal, or the supervisor's death. Returns the exit status."""
    _configure_logging(settings)
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        log.error("cannot listen on %s:%s: %s", settings.host, settings.port, error.strerror or error)
        return 1
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_serve(make_app(), listener, settings))


async def start(app: Sanic, listener: socket.socket) -> AsyncioServer:
    """Start serving on a bound socket, once the app's own listeners have run."""
    app.ctx.port = listener.getsockname()[1]
    # what run() would have noted: from it Sanic knows that there is no HTTP/3 to announce in alt-svc
    app.state.server_info.append(ApplicationServerInfo(settings={"version": HTTP.VERSION_1}))
    server = await app.create_server(
        sock=listener,
        access_log=False,
        backlog=BACKLOG,
        return_asyncio_server=True,
        asyncio_server_kwargs={"start_serving": False},
    )
    await server.startup()
    await server.before_start()
    await server.start_serving()
    await server.after_start()
    return server


async def stop(app: Sanic, server: AsyncioServer, timeout: float, hurry: asyncio.Event) -> None:
    """Accept nothing more, give running requests `timeout` seconds, then tell the rest and go."""
    app.ctx.stopping = True
    server.server.close()
    await server.before_stop()
    await _wait_for_connections(server, timeout, hurry)
    for task in list(app.ctx.waiting):
        task.cancel()
    await _wait_for_connections(server, FAREWELL, asyncio.Event())
    for connection in list(server.connections):
        connection.abort()
    await server.after_stop()


async def _serve(app: Sanic, listener: socket.socket, settings: Settings) -> int:
    stopping, hurry = asyncio.Event(), asyncio.Event()
    _on_signals(lambda: (hurry if stopping.is_set() else stopping).set())
    ending = asyncio.create_task(_until(stopping, settings.supervisor_pid))
    starting = asyncio.create_task(start(app, listener))
    await asyncio.wait([ending, starting], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # told to stop while waiting for Redis
        starting.cancel()
        return 0
    server = starting.result()
    log.info("listening on http://%s:%s", settings.host, listener.getsockname()[1])
    await ending
    log.info("stopping: %s open connections", len(server.connections))
    await stop(app, server, settings.drain_timeout, hurry)
    return 0


async def _until(stopping: asyncio.Event, supervisor: int) -> None:
    while not stopping.is_set():
        if supervisor and os.getppid() != supervisor:
            log.warning("the supervisor is gone")
            stopping.set()  # from now on a signal means: hurry
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), WATCH if supervisor else None)


async def _wait_for_connections(server: AsyncioServer, timeout: float, hurry: asyncio.Event) -> None:
    end = asyncio.get_running_loop().time() + timeout
    while server.connections and not hurry.is_set() and asyncio.get_running_loop().time() < end:
        for connection in list(server.connections):
            connection.close_if_idle()
        await asyncio.sleep(POLL)


def _on_signals(act: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, act)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _configure_logging(settings: Settings) -> None:
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("sanic").setLevel(logging.WARNING)
