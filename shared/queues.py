"""A model's two lanes, each an ordinary RQ queue, and the jobs in them."""

import json
import zlib
from collections.abc import Mapping
from datetime import datetime

from redis import Redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from shared import jobs
from shared.jobs import JobSpec, Lane

FUNCTION = f"{jobs.run.__module__}.{jobs.run.__name__}"

# All that a job of ours may have. RQ would import a callback's module, call a webhook's address,
# or wait for a dependency that somebody wrote into the hash.
FIELDS = frozenset(
    "data created_at origin worker_name description enqueued_at started_at ended_at last_heartbeat"
    " timeout result_ttl failure_ttl status success_callback_name failure_callback_name"
    " stopped_callback_name group_id retries_left number_of_retries exc_info result".split()
) | {"attempt", "deaths", "returns"}
EMPTY = frozenset(
    ["success_callback_name", "failure_callback_name", "stopped_callback_name", "group_id", "result"]
)


class ForgedJob(ValueError):
    """A job in Redis that OminiX did not write, or that was changed since."""


class StrictJob(Job):
    """An RQ job that can only be one of ours; `restore` raises ForgedJob for any other."""

    attempt = 0

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        for field, value in raw_data.items():
            name = field.decode()
            if name not in FIELDS or (name in EMPTY and value):
                raise ForgedJob(f"job {self.id} has a field {name!r}, which no OminiX job has")
        super().restore(raw_data)
        self.attempt = int(raw_data.get(b"attempt", 0))
        _check_call(self.id, self.data)

    @property
    def spec(self) -> JobSpec:
        return jobs.from_builtins(self.args[0])


def _check_call(job_id: str, data: bytes) -> None:
    try:
        function, instance, args, kwargs = json.loads(data)
    except ValueError as error:
        raise ForgedJob(f"job {job_id} is not JSON") from error
    if function != FUNCTION or instance is not None or kwargs or len(args) != 1:
        raise ForgedJob(f"job {job_id} calls {function!r}, not {FUNCTION}")
    if jobs.from_builtins(args[0]).id != job_id:
        raise ForgedJob(f"job {job_id} carries the id of another")


def queue_name(model: str, lane: Lane) -> str:
    return model if lane == "interactive" else f"{model}/batch"


def queue_key(name: str) -> str:
    """RQ's list of the ids that wait, for those who need no Queue."""
    return Queue.redis_queue_namespace_prefix + name


def make_queue(name: str, connection: Redis) -> Queue:
    return Queue(name, connection=connection, job_class=StrictJob, serializer=JSONSerializer)


def make_job(spec: JobSpec, result_ttl: int, connection: Redis) -> StrictJob:
    """The RQ job of a spec. Its description says nothing of what the client sent."""
    job = StrictJob.create(
        jobs.run,
        args=[jobs.to_builtins(spec)],
        id=spec.id,
        connection=connection,
        serializer=JSONSerializer,
        timeout=int(spec.timeout) + 1,
        result_ttl=result_ttl,
        failure_ttl=result_ttl,
        description=f"{spec.task} {spec.model}",
    )
    job.retries_left = 3  # so that RQ's own clean-up of a lost lease requeues and does not fail
    return job


def restore_job(job_id: str, raw: Mapping[bytes, bytes], connection: Redis) -> StrictJob:
    """A job from its hash. Raises ForgedJob."""
    job = StrictJob(job_id, connection=connection, serializer=JSONSerializer)
    try:
        job.restore(raw)
    except ForgedJob:
        raise
    except (NoSuchJobError, ValueError, LookupError, TypeError, AttributeError, zlib.error) as error:
        raise ForgedJob(f"job {job_id} cannot be read: {error!r}") from error
    return job


def seconds(moment: datetime | None) -> int | None:
    """Unix seconds, as OpenAI's objects have them."""
    return int(moment.timestamp()) if moment else None

