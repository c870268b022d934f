"""The reaper: once a second it settles jobs whose lease ran out and puts back what was never registered."""

import logging
import signal
import threading
import time
from collections.abc import Iterator

from redis import Redis
from redis.exceptions import RedisError
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry

from shared import keys
from shared.blobs import blob_store
from shared.connections import connect
from shared.queues import ForgedJob, StrictJob, make_queue, queue_key, restore_job
from shared.settings import Settings
from workers.settle import settle_execution

JUMP = 5.0  # seconds between wall clock and monotonic clock: the machine was asleep
TIDY_EVERY = 60.0

# A take that was never registered: back to the front of its queue, unless it has just been.
PUT_BACK = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], 'status', 'queued')
return 1
"""

log = logging.getLogger("ominix.reaper")


class Reaper:
    """`sweep` it once a second."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._blobs = blob_store(settings)
        self._taken_since: dict[tuple[str, str], float] = {}
        self._offset = time.time() - time.monotonic()
        self._swept = time.monotonic()
        self._patient_until = 0.0
        self._tidied = 0.0

    def sweep(self) -> None:
        """One pass over every queue. Raises RedisError."""
        now = time.monotonic()
        names = [key.decode().removeprefix(queue_key("")) for key in self._redis.smembers("rq:queues")]
        if not self._was_away(now):
            for name in names:
                self._settle_expired(name)
        self._put_back(names, now)
        if now - self._tidied > TIDY_EVERY:
            self._tidied = now
            self._tidy(names)
        self._swept = now

    def _was_away(self, now: float) -> bool:
        """After a sleep, or an outage of Redis, every lease looks expired: wait one lease for the others,
        who are back as well."""
        offset = time.time() - now
        if abs(offset - self._offset) > JUMP or now - self._swept > JUMP:
            log.warning("the machine slept or Redis was away; waiting one lease")
            self._patient_until = now + self._settings.lease
        self._offset = offset
        return now < self._patient_until

    def _settle_expired(self, name: str) -> None:
        registry = StartedJobRegistry(name, connection=self._redis)
        now = time.time()
        for composite in self._redis.zrangebyscore(registry.key, 0, now):
            if settle_execution(self._redis, composite.decode(), self._settings, now) == "gone":
                self._redis.zrem(registry.key, composite)

    def _put_back(self, names: list[str], now: float) -> None:
        found = {}
        for name in names:
            for job_id in self._redis.lrange(make_queue(name, self._redis).intermediate_queue_key, 0, -1):
                pair = name, job_id.decode()
                found[pair] = self._taken_since.get(pair, now)
        self._taken_since = found
        for (name, job_id), since in found.items():
            if now - since > self._settings.intermediate_grace:
                queue = make_queue(name, self._redis)
                if self._redis.eval(
                    PUT_BACK, 3, queue.intermediate_queue_key, queue.key, StrictJob.key_for(job_id), job_id
                ):
                    log.warning("job %s was taken and never registered: put back", job_id)

    def _tidy(self, names: list[str]) -> None:
        """Lists of what has expired, and blobs whose job has."""
        now = time.time()
        for name in names:
            for kind in (FinishedJobRegistry, FailedJobRegistry, CanceledJobRegistry):
                self._redis.zremrangebyscore(kind(name, connection=self._redis).key, 0, now)
        old = self._redis.zrangebyscore(keys.JOBS, 0, now - self._settings.result_ttl)
        gone = [job_id for job_id in old if not self._redis.exists(StrictJob.key_for(job_id.decode()))]
        if gone:
            self._redis.zrem(keys.JOBS, *gone)
        for worker in self._redis.smembers(keys.WORKERS):
            if not self._redis.exists(keys.worker(worker.decode())):
                self._redis.srem(keys.WORKERS, worker)
        for url in self._redis.smembers(keys.APIS):
            if not self._redis.exists(keys.api(url.decode())):
                self._redis.srem(keys.APIS, url)
        if old_blobs := set(self._blobs.older_than(self._settings.result_ttl)):
            for key in old_blobs - self._blobs_in_use():
                self._blobs.delete(key)

    def _blobs_in_use(self) -> set[str | None]:
        """A job may wait longer than results are kept."""
        return {job.spec.blob for job in self._jobs() if job.ended_at is None}

    def _jobs(self) -> Iterator[StrictJob]:
        for job_id in self._redis.zrange(keys.JOBS, 0, -1):
            raw = self._redis.hgetall(StrictJob.key_for(job_id.decode()))
            try:
                yield restore_job(job_id.decode(), raw, self._redis)
            except ForgedJob:
                continue  # gone, or never ours


def main(settings: Settings) -> int:
    """Sweep until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    reaper = Reaper(connect(settings.redis), settings)
    while not stop.wait(1.0):
        try:
            reaper.sweep()
        except RedisError as error:
            log.warning("%s; trying again", error)
    return 0
