"""Settling the jobs of the dead: requeued if they had not spoken, else failed, never lost."""

import logging
import math
import time

from redis import Redis
from rq.executions import Execution, ExecutionRegistry
from rq.worker import SimpleWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from shared import endings, keys
from shared.blobs import blob_store
from shared.errors import WorkerDied
from shared.events import Failed
from shared.queues import ForgedJob, StrictJob, make_queue, restore_job
from shared.settings import Settings
from shared.tasks import named

log = logging.getLogger("ominix.settle")


def settle_worker(redis: Redis, worker_name: str, settings: Settings) -> None:
    """Settle everything that a worker, known to be dead, had taken; and take it off the lists."""
    index = Execution("", "", redis, worker_name).worker_executions_key
    for composite in redis.smembers(index):
        settle_execution(redis, composite.decode(), settings)
    _forget_worker(redis, worker_name)


def settle_execution(
    redis: Redis, composite: str, settings: Settings, expired_by: float = math.inf
) -> str:
    """Settle one execution, named as RQ does: `job_id:execution_id`. Returns what became of it."""
    execution = Execution.from_composite_key(composite, redis)
    raw = redis.hgetall(StrictJob.key_for(execution.job_id))
    try:
        job = restore_job(execution.job_id, raw, redis)
    except ForgedJob as error:
        log.warning("%s; dropped", error)
        return "gone"
    end = Failed.of(WorkerDied(f"The worker died while it ran job {job.id}. Please send it again."))
    mine = [execution.key, ExecutionRegistry(job.id, redis).key]
    resumes = named(job.spec.task).RESUMES
    outcome = endings.settle_dead(
        redis, job, composite, make_queue(job.origin, redis).key, mine, end, settings.result_ttl, expired_by,
        resumes,
    ).decode()
    if outcome == "failed" and not blob_store(settings).delete(job.spec.blob):
        redis.zadd(keys.SPENT_BLOBS, {job.spec.blob: time.time()})
    if outcome != "alive":
        log.warning("job %s of a dead worker: %s", job.id, outcome)
    return outcome


def _forget_worker(redis: Redis, name: str) -> None:
    """As RQ's own `register_death`, for a worker that could not say it."""
    key = SimpleWorker.redis_worker_namespace_prefix + name
    queues = (redis.hget(key, "queues") or b"").decode().split(",")
    with redis.pipeline() as pipeline:
        pipeline.srem(SimpleWorker.redis_workers_keys, key)
        for queue in queues:
            pipeline.srem(WORKERS_BY_QUEUE_KEY % queue, key)
        pipeline.delete(key, f"{key}:executions", keys.worker(name))
        pipeline.srem(keys.WORKERS, name)
        pipeline.execute()
