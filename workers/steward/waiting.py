"""The jobs that wait for a model: told what becomes of it, and ended if nothing can."""

import time
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from shared import endings, keys
from shared.blobs import blob_store
from shared.channel import parse_id
from shared.errors import OminixError
from shared.events import Delta, Failed, encode
from shared.jobs import LANES
from shared.queues import ForgedJob, StrictJob, queue_key, queue_name, restore_job
from shared.settings import Settings

MOST = 1000  # jobs of a lane that are told


class Waiting:
    """What is said here has the attempt 0, before that of any worker: whoever reads an answer skips it, and
    it does not count as a word of a worker."""

    def __init__(self, redis: Redis, settings: Settings, model: str) -> None:
        self._redis, self._settings = redis, settings
        self._lanes = [queue_name(model, lane) for lane in LANES]
        self._told: dict[str, Any] = {}

    def tell(self, event: Delta) -> None:
        """Each job that has not heard it yet."""
        ids = [job_id for lane in self._lanes for job_id in self._ids(lane, MOST)]
        new = [job_id for job_id in ids if self._told.get(job_id) != event.data]
        self._told = {job_id: event.data for job_id in ids}
        if not new:
            return
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in new:
                pipe.xrevrange(keys.events(job_id), count=1)
            last = [parse_id(entries[0][0]) if entries else (0, 0) for entries in pipe.execute()]
            for job_id, (attempt, count) in zip(new, last, strict=True):
                if attempt == 0:
                    pipe.xadd(keys.events(job_id), {keys.FIELD: encode(event)}, id=f"0-{count + 1}")
            pipe.execute(raise_on_error=False)  # a worker may have begun to speak

    def end(self, error: OminixError) -> None:
        """All of them."""
        end = Failed.of(error)
        for lane in self._lanes:
            for job in self._jobs(lane):
                if endings.finish_waiting(self._redis, job, queue_key(lane), end, self._settings.result_ttl):
                    self._drop_blob(job)

    def _drop_blob(self, job: StrictJob) -> None:
        if not blob_store(self._settings).delete(job.spec.blob):
            self._redis.zadd(keys.SPENT_BLOBS, {job.spec.blob: time.time()})

    def _jobs(self, lane: str) -> Iterator[StrictJob]:
        for job_id in self._ids(lane):
            try:
                yield restore_job(job_id, self._redis.hgetall(StrictJob.key_for(job_id)), self._redis)
            except (ForgedJob, ResponseError):
                continue

    def _ids(self, lane: str, most: int = 0) -> list[str]:
        return [job_id.decode() for job_id in self._redis.lrange(queue_key(lane), 0, most - 1)]
