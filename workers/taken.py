"""Jobs that were taken from a lane and are not registered yet."""

import logging
from collections.abc import Sequence

from redis import Redis
from rq import Queue

from shared import keys
from shared.errors import Cancelled
from shared.queues import ForgedJob, StrictJob, restore_job

CANCELLED = "The job was cancelled."

log = logging.getLogger("ominix.worker")


def look_up(
    connection: Redis, queue: Queue, job_ids: Sequence[str]
) -> list[tuple[StrictJob, Exception | None]]:
    """The jobs that are still ours to register, each with a reason not to run if there is one.

    After the WATCH, on another connection.
    """
    intermediate = queue.intermediate_queue_key
    with connection.pipeline(transaction=False) as pipeline:
        for job_id in job_ids:
            pipeline.hgetall(StrictJob.key_for(job_id))
            pipeline.lpos(intermediate, job_id)
            pipeline.exists(keys.cancelled(job_id))
        replies = pipeline.execute()
    jobs = []
    each = zip(job_ids, replies[::3], replies[1::3], replies[2::3], strict=True)
    for job_id, raw, position, cancelled in each:
        if position is None:
            log.warning("job %s was put back", job_id)
            continue
        try:
            job = restore_job(job_id, raw, connection)
        except ForgedJob as error:
            log.error("%s; dropped", error)
            connection.lrem(intermediate, 0, job_id)
            continue
        if job.ended_at:
            connection.lrem(intermediate, 0, job_id)
            continue
        jobs.append((job, Cancelled(CANCELLED) if cancelled else None))
    return jobs
