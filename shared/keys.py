"""Every Redis key that OminiX adds beside RQ's own, in one place."""

STARTED = "ominix:started"  # stream: ids of jobs that a worker has just taken
JOBS = "ominix:jobs"  # sorted set: job id by creation time
SUPERVISED = "ominix:supervised"  # hash: model id -> what a supervisor has to say of it
WORKERS = "ominix:workers"  # set: names of workers

FIELD = b"e"  # the one field of an entry in an event stream
END_ID = "18446744073709551615-1"  # the reserved id of a Done or Failed


def events(job_id: str) -> str:
    """Stream: the events of a job."""
    return f"ominix:events:{job_id}"


def cancelled(job_id: str) -> str:
    """Flag: somebody asked to cancel this job."""
    return f"ominix:cancelled:{job_id}"


def control(model: str) -> str:
    """Stream: ids of running jobs that the workers of a model should stop."""
    return f"ominix:control:{model}"


def worker(name: str) -> str:
    """Hash with a time to live: what a worker says of itself."""
    return f"ominix:worker:{name}"


def idempotency(key: str) -> str:
    """String: the job id that an Idempotency-Key stands for."""
    return f"ominix:idempotency:{key}"


def cache_home(model: str, digest: str) -> str:
    """String with a time to live: the worker that last took a job with this prompt_cache_key."""
    return f"ominix:cache-home:{model}:{digest}"
