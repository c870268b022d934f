"""What lives: the workers' own records, the queues' lengths, the server's memory."""

import time

import msgspec
from redis.asyncio import Redis

from shared import fleet, keys
from shared.catalog import Catalog
from shared.management import STEWARD
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
    hosts: dict[str, int] = {}  # ready workers by host
    wanted: int | None = None  # workers that a supervisor is to run; None: there is none


class Census(msgspec.Struct):
    """`steward`: whether there is one; `on_demand`: whether it can load what is asked for."""

    models: dict[str, ModelState]
    memory_full: bool
    taken: float  # monotonic seconds
    steward: bool = False
    on_demand: bool = False


class CensusTaker:
    def __init__(self, redis: Redis, catalog: Catalog) -> None:
        self._redis = redis
        self._catalog = catalog
        self._counted: Manifest | None = None
        self._last: Census | None = None

    async def take(self, max_age: float = FRESH) -> Census:
        """A census no older than `max_age` seconds. Raises RedisError."""
        manifest = self._catalog.manifest
        old = self._last is None or time.monotonic() - self._last.taken > max_age
        if old or manifest is not self._counted:
            self._last = await self._count(manifest)
            self._counted = manifest
        return self._last

    async def _count(self, manifest: Manifest) -> Census:
        entries = manifest.entries
        names = await self._redis.smembers(keys.WORKERS)
        async with self._redis.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.llen(_queue(entry, "interactive"))
                pipe.llen(_queue(entry, "batch"))
            for name in names:
                pipe.hgetall(keys.worker(name.decode()))
            pipe.hgetall(keys.SUPERVISED)
            pipe.hgetall(keys.REPLICAS)
            pipe.info("memory")
            *replies, supervised, replicas, memory = await pipe.execute()
        on_demand = supervised.get(STEWARD.encode(), b"failed")[:6] != b"failed"
        wanted = fleet.read(replicas) if supervised else {}
        models = {}
        for index, entry in enumerate(entries):
            said = supervised.get(entry.id.encode(), b"").decode()
            waiting = replies[2 * index] + replies[2 * index + 1]
            state = ModelState(waiting=waiting, supervised=said)
            if not entry.replicas:
                state.wanted = 0
            if supervised:
                state.wanted = wanted[entry.id].replicas if entry.id in wanted else 0
            models[entry.id] = state
        records = replies[2 * len(entries) :]
        for record in records:
            _count_worker(models, record)
        steward = on_demand or any(record.get(b"model") == STEWARD.encode() for record in records)
        limit = memory.get("maxmemory", 0)
        full = bool(limit) and memory["used_memory"] > FULL * limit
        return Census(models, full, time.monotonic(), steward, on_demand)


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
    if kind == b"ready":
        host = record.get(b"host", b"").decode()
        state.hosts[host] = state.hosts.get(host, 0) + 1
