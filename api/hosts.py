"""What the API does for workers on other hosts: it says where it is, and removes what they are done with.

Audio reaches them by a link (`api/routes/blobs.py`). A URL that only this host can use is announced for
this host alone.
"""

import asyncio
import logging
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

from redis.exceptions import RedisError
from sanic import Sanic

from api.auth import is_loopback
from shared import keys, links
from shared.blobs import BlobStore
from shared.connections import connect_async
from shared.settings import Settings

PERIOD = 5.0  # seconds between two announcements
LIFETIME = 15  # seconds after which an API that has gone is forgotten
EVERY_ADDRESS = ("0.0.0.0", "::", "")

log = logging.getLogger("ominix.api")


def register(app: Sanic) -> None:
    hosts = app.ctx.hosts = Hosts(app.ctx.settings, app.ctx.dispatch.blobs)
    app.register_listener(lambda app: hosts.start(app.ctx.port), "after_server_start")
    app.register_listener(lambda app: hosts.stop(), "before_server_stop")


class Hosts:
    """`start` when the port is known; `stop` when no more is served."""

    def __init__(self, settings: Settings, blobs: BlobStore) -> None:
        self._settings = settings
        self._blobs = blobs
        self._redis = connect_async(settings.redis)
        self._task: asyncio.Task | None = None
        self.url = ""

    async def start(self, port: int) -> None:
        self.url, self._only = address(self._settings, port)
        self._task = asyncio.create_task(self._announce(), name="announcement")

    async def stop(self) -> None:
        while self._task and not self._task.done():  # redis-py may swallow one cancellation
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.1)
        with suppress(RedisError):
            await self._redis.delete(keys.api(self.url))
        await self._redis.aclose()

    async def secret_and_time(self) -> tuple[bytes | None, int]:
        """What links are signed with, and Redis's time. Raises RedisError."""
        async with self._redis.pipeline(transaction=False) as pipe:
            links.ask(pipe)
            return links.secret_and_time(await pipe.execute())

    async def _announce(self) -> None:
        while True:
            try:
                await self._say()
            except (RedisError, OSError) as error:
                log.debug("not announced: %s", error)
            await asyncio.sleep(PERIOD)

    async def _say(self) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            links.make_secret(pipe)
            pipe.sadd(keys.APIS, self.url)
            pipe.set(keys.api(self.url), self._only, ex=LIFETIME)
            pipe.zremrangebyscore(keys.SPENT_BLOBS, 0, time.time() - self._settings.result_ttl)
            pipe.zrange(keys.SPENT_BLOBS, 0, -1)
            spent = (await pipe.execute())[-1]
        if mine := [key for key in spent if self._is_gone(key.decode())]:
            await self._redis.zrem(keys.SPENT_BLOBS, *mine)

    def _is_gone(self, key: str) -> bool:
        """Whether a spent blob was here, or is no blob at all."""
        try:
            return self._blobs.delete(key)
        except ValueError:
            return True


def address(settings: Settings, port: int) -> tuple[str, str]:
    """The API's URL, and the one host that can use it, or "" if all can."""
    if settings.public_url:
        return settings.public_url.rstrip("/"), ""
    name = socket.gethostname()
    host = name if settings.host in EVERY_ADDRESS else settings.host
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{port}"
    return url, name if is_loopback(urlsplit(url).hostname) else ""
