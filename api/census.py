"""What lives: the workers' own records, the queues' lengths, the server's memory."""

import time

import msgspec
from redis.asyncio import Redis

from shared import keys
from shared.manifest import Manifest, ModelEntry
from shared.queues import queue_key, queue_name

FRESH = 1.0  # seconds
FULL = 0.8  # of maxmemory: above it nothing is admitted, so that every answer still fits


class ModelState(msgspec.Struct):
    """Workers by state, and jobs, of one model."""

    ready: int = 0
    loading: int = 0
    waiting: int = 0
    running: int = 0
    supervised: str = ""  # what a supervisor says of it


class Census(msgspec.Struct):
    models: dict[str, ModelState]
    memory_full: bool
    taken: float  # monotonic seconds


class CensusTaker:
    def __init__(self, redis: Redis, manifest: Manifest) -> None:
        self._redis = redis
        self._manifest = manifest
        self._last: Census | None = None

    async def take(self, max_age: float = FRESH) -> Census:
        """A census no older than `max_age` seconds. Raises RedisError."""
        if self._last is None or time.monotonic() - self._last.taken > max_age:
            self._last = await self._count()
        return self._last

    async def _count(self) -> Census:
        entries = self._manifest.entries
        names = await self._redis.smembers(keys.WORKERS)
        async with self._redis.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.llen(_queue(entry, "interactive"))
                pipe.llen(_queue(entry, "batch"))
            for name in names:
                pipe.hgetall(keys.worker(name.decode()))
            pipe.hgetall(keys.SUPERVISED)
            pipe.info("memory")
            *replies, supervised, memory = await pipe.execute()
        models = {}
        for index, entry in enumerate(entries):
            said = supervised.get(entry.id.encode(), b"").decode()
            waiting = replies[2 * index] + replies[2 * index + 1]
            models[entry.id] = ModelState(waiting=waiting, supervised=said)
        for record in replies[2 * len(entries) :]:
            _count_worker(models, record)
        limit = memory.get("maxmemory", 0)
        full = bool(limit) and memory["used_memory"] > FULL * limit
        return Census(models, full, time.monotonic())


def _queue(entry: ModelEntry, lane: str) -> str:
    return queue_key(queue_name(entry.id, lane))


def _count_worker(models: dict[str, ModelState], record: dict[bytes, bytes]) -> None:
    state = models.get(record.get(b"model", b"").decode())
    if state is None:
        return
    kind = record.get(b"state")
    state.ready += kind == b"ready"
    state.loading += kind == b"loading"
    state.running += int(record.get(b"running", 0))
