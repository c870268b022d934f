"""The Sanic app, put together."""

import asyncio
import logging
import secrets

import orjson
from sanic import Sanic

from api import auth, cors, errors, hosts, identity, routes, serve
from api.dispatch import Dispatch
from shared.catalog import Catalog
from shared.settings import Settings

MIB = 1 << 20
RETRY = 0.2  # seconds between attempts to reach Redis at the start
SLACK = 30.0  # seconds that Sanic's own timeouts leave ours

log = logging.getLogger("ominix.api")


def create_app(settings: Settings, catalog: Catalog) -> Sanic:
    """An app of its own; nothing of it is shared with another one.

    `app.ctx` has settings, catalog, dispatch, stopping (the server is ending) and waiting (tasks
    that wait for a job).
    """
    name = f"ominix-{secrets.token_hex(4)}"
    app = Sanic(name, configure_logging=False, env_prefix="", dumps=orjson.dumps, loads=orjson.loads)
    app.config.update(_config(settings))
    app.ctx.settings = settings
    app.ctx.catalog = catalog
    app.ctx.dispatch = Dispatch(settings, catalog)
    app.ctx.stopping = False
    app.ctx.waiting = set()
    app.register_listener(_start, "before_server_start")
    app.register_listener(_stop, "after_server_stop")
    for part in (errors, identity, cors, auth, hosts, *routes.modules()):
        part.register(app)
    return app


def main(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status."""
    return serve.run(lambda: create_app(settings, Catalog(settings)), settings)


def _config(settings: Settings) -> dict:
    return {
        "ACCESS_LOG": False,
        "AUTO_EXTEND": False,
        "MOTD": False,
        "REQUEST_MAX_HEADER_SIZE": 16_384,
        # our own limits come first; this one bounds how much of a refused body is read and thrown away
        "REQUEST_MAX_SIZE": 2 * settings.max_upload_mb * MIB,
        "RESPONSE_TIMEOUT": max(settings.request_timeout, settings.keepalive) + SLACK,
        "REQUEST_TIMEOUT": 60,
        "KEEP_ALIVE_TIMEOUT": 120,
    }


async def _start(app: Sanic) -> None:
    """Wait for Redis, which may be starting too."""
    told = False
    while True:
        try:
            return await app.ctx.dispatch.start()
        except errors.REDIS_GONE as error:
            if not told:
                log.warning("waiting for Redis: %s", error)
            told = True
            await asyncio.sleep(RETRY)


async def _stop(app: Sanic) -> None:
    await app.ctx.dispatch.stop()
