"""Who is let in: what cannot be served soon is refused before it waits."""

import asyncio
import time

from redis.asyncio import Redis

from api.census import CensusTaker, ModelState
from shared.disk import is_whole
from shared.errors import QueueFull, Unavailable
from shared.jobs import LANES
from shared.manifest import ModelEntry
from shared.queues import queue_key, queue_name
from shared.settings import Settings


class Admission:
    def __init__(self, redis: Redis, census: CensusTaker, settings: Settings) -> None:
        self._redis = redis
        self._census = census
        self._settings = settings

    async def admit(self, entry: ModelEntry) -> bool:
        """Refuse early: what cannot be served soon is not queued. False if the model has to be loaded."""
        census = await self._census.take()
        state = census.models.get(entry.id) or ModelState()
        served = bool(state.ready or state.loading or state.supervised)
        if not (served or census.on_demand):
            raise Unavailable(
                f"No worker serves '{entry.id}' now. Start one with `ominix worker {entry.id}`.",
                retry_after=5,
            )
        if not served and not await asyncio.to_thread(is_whole, entry, self._settings.models_dir):
            raise Unavailable(f"The model '{entry.id}' is not on this disk yet: `ominix models pull`.")
        if state.supervised.startswith("failed") and not state.ready:
            why = state.supervised.removeprefix("failed: ")
            raise Unavailable(f"The model '{entry.id}' cannot be loaded: {why}", retry_after=30)
        if census.memory_full:
            raise Unavailable("The job store is nearly full.", code="overloaded", retry_after=10)
        async with self._redis.pipeline(transaction=False) as pipe:
            for lane in LANES:
                pipe.llen(queue_key(queue_name(entry.id, lane)))
            waiting = sum(await pipe.execute())
        if waiting >= entry.max_waiting:
            seconds = await self._drain_time(entry, waiting)
            raise QueueFull(
                f"{waiting} jobs are waiting for '{entry.id}', as many as may. Try again in {seconds} s.",
                retry_after=seconds,
            )
        return served

    async def _drain_time(self, entry: ModelEntry, waiting: int) -> int:
        """Seconds until a tenth of the line has gone, from what was finished in the last minute."""
        expiry = time.time() + self._settings.result_ttl
        async with self._redis.pipeline(transaction=False) as pipe:
            for lane in LANES:
                pipe.zcount(f"rq:finished:{queue_name(entry.id, lane)}", expiry - 60, "+inf")
            finished = sum(await pipe.execute())
        return max(1, min(60, round(waiting / 10 / max(finished / 60, 0.1))))
