"""Housekeeping: sees what nobody has asked for, and asks the steward for it."""

import logging
import threading
import time

from redis import Redis
from redis.exceptions import RedisError

from shared import fleet, keys, management
from shared.management import STEWARD
from shared.manifest import ModelEntry
from shared.queues import StrictJob, make_job, make_queue, queue_name
from shared.settings import Settings
from workers.budget import readable
from workers.steward.estate import GROWTH, Estate, Survey, Worker

LOOK = 1.0  # seconds between two looks when nobody wakes
TWICE = 2  # records in a row in which a worker is past its share

log = logging.getLogger("ominix.steward")


class House(threading.Thread):
    """Jobs for models without workers, idle models, workers that have grown past their share. It decides
    nothing: it queues jobs for the steward, and names workers for the supervisor to replace."""

    def __init__(self, estate: Estate, redis: Redis, settings: Settings) -> None:
        super().__init__(name="house", daemon=True)
        self._estate = estate
        self._redis = redis
        self._settings = settings
        self._heard = "0-0"
        self._asked: dict[str, str] = {}  # model -> the job that was queued for it
        self._large: dict[str, int] = {}  # worker -> looks in a row
        self._looked = 0.0

    def run(self) -> None:
        while True:
            try:
                self.tidy(self._estate.look())
                self._heard = fleet.hear(self._redis, keys.STEWARD_WAKE, self._heard, LOOK)
            except RedisError as error:
                log.warning("%s; trying again", error)
                time.sleep(LOOK)

    def tidy(self, survey: Survey) -> None:
        """One look. Raises RedisError."""
        if STEWARD not in survey.supervised:
            return
        self._forget_ended()
        for entry in self._estate.entries:
            if survey.waiting.get(entry.id) and not survey.is_served(entry.id):
                self._ask("load", entry.id)
            elif self._is_past_its_time(entry, survey):
                self._ask("unload", entry.id, if_idle=True)
        if survey.now - self._looked >= LOOK:  # records are renewed once a second
            self._looked = survey.now
            full = sum(worker.memory for worker in survey.here) > self._estate.budget
            relieved = full and self._relieve(survey)
            times = 1.0 if full and not relieved else GROWTH
            self._recycle([worker for worker in survey.here if self._is_large(worker, survey, times)])

    def _is_past_its_time(self, entry: ModelEntry, survey: Survey) -> bool:
        if entry.pinned or entry.keep_alive is None or not survey.replicas(entry.id):
            return False
        idle = survey.idle_since(entry.id)
        return bool(idle) and survey.now - idle > entry.keep_alive

    def _relieve(self, survey: Survey) -> bool:
        """More is taken than there is, since somebody needs more than was thought: the model that was idle
        longest goes. False if none is idle."""
        idle = {
            model: survey.idle_since(model)
            for model in survey.wanted
            if survey.idle_since(model) and not self._estate.is_pinned(model)
        }
        if idle:
            self._ask("unload", min(idle, key=idle.__getitem__), if_idle=True)
        return bool(idle)

    def _is_large(self, worker: Worker, survey: Survey, times: float) -> bool:
        share = self._estate.share(worker.model, survey)
        return bool(worker.supervised and not worker.leaving and share and worker.memory > times * share)

    def _recycle(self, large: list[Worker]) -> None:
        self._large = {worker.name: self._large.get(worker.name, 0) + 1 for worker in large}
        names = [name for name, looks in self._large.items() if looks == TWICE]
        for worker in large:
            if worker.name in names:
                size, share = readable(worker.memory), readable(worker.share)
                log.warning("%s has grown to %s, its share is %s: starting it anew", worker.name, size, share)
        if names:
            with self._redis.pipeline() as pipe:
                pipe.sadd(keys.RECYCLE, *names)
                fleet.wake(pipe, keys.SUPERVISOR_WAKE)
                pipe.execute()

    def _ask(self, task: str, model: str, **fields: bool) -> None:
        """Queue a job, unless one is under way for this model."""
        if model in self._asked:
            return
        request = management.tasks()[task].Request(model=model, **fields)
        spec = management.make_spec(task, request, model)
        job = make_job(spec, self._settings.result_ttl, self._redis)
        with self._redis.pipeline() as pipe:
            make_queue(queue_name(STEWARD, spec.lane), self._redis).enqueue_job(job, pipeline=pipe)
            pipe.zadd(keys.JOBS, {spec.id: spec.created})
            pipe.execute()
        self._asked[model] = spec.id

    def _forget_ended(self) -> None:
        for model, job_id in list(self._asked.items()):
            ended, there = self._redis.hmget(StrictJob.key_for(job_id), "ended_at", "status")
            if ended or not there:
                del self._asked[model]
