"""Every Redis key that OminiX adds beside RQ's own, in one place."""

STARTED = "ominix:started"  # stream: ids of jobs that a worker has just taken
JOBS = "ominix:jobs"  # sorted set: job id by creation time
SUPERVISED = "ominix:supervised"  # hash: model id -> what a supervisor has to say of it
REPLICAS = "ominix:replicas"  # hash: model id -> shared.fleet.Wanted, what the supervisor is to run
RECYCLE = "ominix:recycle"  # set: names of workers to end and to start anew
SUPERVISOR_WAKE = "ominix:supervisor-wake"  # stream: that one of the two has changed
STEWARD_WAKE = "ominix:steward-wake"  # stream: ids of models that jobs were queued for, and no worker serves
FILES = "ominix:files"  # hash: model id -> the job that fetches or deletes its files, perhaps ended
WORKERS = "ominix:workers"  # set: names of workers
APIS = "ominix:apis"  # set: URLs of APIs
SPENT_BLOBS = "ominix:spent-blobs"  # sorted set: keys of blobs whose job ended on another host, by time
LINK_SECRET = "ominix:link-secret"  # string: what links to blobs are signed with

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


def api(url: str) -> str:
    """String with a time to live: the one host on which this URL leads to the API, or empty for all."""
    return f"ominix:api:{url}"


def idempotency(key: str) -> str:
    """String: the job id that an Idempotency-Key stands for."""
    return f"ominix:idempotency:{key}"


def cache_home(model: str, digest: str) -> str:
    """String with a time to live: the worker that last took a job with this prompt_cache_key."""
    return f"ominix:cache-home:{model}:{digest}"
