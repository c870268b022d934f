"""Jobs with one `prompt_cache_key` go where their prompt has been read before, if there is room.

The home of a key is the worker that last took a job with it. Replicas share a queue, so another may get
such a job: it hands it back once, to the front of the lane, where a home with a free slot nearly always
waits in BLMOVE, and whoever waits is served as it is pushed.
"""

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Sequence

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.executions import Execution

from shared import keys
from shared.queues import StrictJob
from workers.reaper import PUT_BACK

LIFETIME = 3600  # seconds that a home is remembered
PATIENCE = 0.05  # seconds: by then a home that was not waiting has looked again
PAUSE = 0.001
FRONT = 32  # places of a lane among which to look for what was put to its front


class Affinity:
    """One worker's side of it, in its intake thread."""

    def __init__(self, model: str, worker: str, redis: Redis) -> None:
        self._model, self._worker, self._redis = model, worker, redis
        self._handed_back: deque[str] = deque(maxlen=1000)  # kept if they come again
        self._leaving: list[str] = []

    def settle_in(self, job: StrictJob, pipeline: Pipeline) -> None:
        """Make this worker the home of the job's key, in the transaction that registers the job."""
        if home := self._home_key(job):
            pipeline.set(home, self._worker, ex=LIFETIME)

    def elsewhere(self, jobs: Iterable[StrictJob]) -> list[str]:
        """The ids of jobs to hand back: their home is another worker, and has a slot for each."""
        keyed = {job.id: home for job in jobs if (home := self._home_key(job))}
        keyed = {job_id: home for job_id, home in keyed.items() if job_id not in self._handed_back}
        if not keyed:
            return []
        found = zip(keyed, self._redis.mget(list(keyed.values())), strict=True)
        homes = {job_id: home.decode() for job_id, home in found if home and home != self._worker.encode()}
        free = self._free_slots(set(homes.values())) if homes else {}
        away = []
        for job_id, home in homes.items():
            if free[home] > 0:
                free[home] -= 1
                away.append(job_id)
        return away

    def hand_back(self, queue: Queue, job_ids: Sequence[str], pipeline: Pipeline) -> None:
        """Put taken jobs back to the front of their lane, in their order, as the reaper does."""
        for job_id in reversed(job_ids):
            lists = queue.intermediate_queue_key, queue.key
            pipeline.eval(PUT_BACK, 3, *lists, StrictJob.key_for(job_id), job_id)
        self._handed_back.extend(job_ids)
        self._leaving = list(job_ids)

    def wait(self, queue: Queue) -> None:
        """Leave what was just handed back to its home, for a moment: it may not have been waiting."""
        limit = time.monotonic() + PATIENCE
        while self._leaving and time.monotonic() < limit:
            if self._redis.lpos(queue.key, self._leaving[-1], maxlen=FRONT) is None:
                self._leaving.pop()
            else:
                time.sleep(PAUSE)
        self._leaving = []

    def _home_key(self, job: StrictJob) -> str | None:
        key = job.spec.params.get("prompt_cache_key")
        return keys.cache_home(self._model, hashlib.sha256(key.encode()).hexdigest()) if key else None

    def _free_slots(self, workers: set[str]) -> dict[str, int]:
        """Of workers that are well, by their own word and what they have registered."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in workers:
                pipeline.hmget(keys.worker(name), "state", "capacity")
                pipeline.scard(Execution("", "", self._redis, name).worker_executions_key)
            replies = pipeline.execute()
        each = zip(workers, replies[::2], replies[1::2], strict=True)
        return {
            name: int(capacity) - running if state == b"ready" else 0
            for name, (state, capacity), running in each
        }
