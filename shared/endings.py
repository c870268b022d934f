"""How a job ends: in one script, so that its stream, its status and its registries agree."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.utils import current_timestamp, utcformat

from shared import keys
from shared.events import Done, End, encode

REGISTRIES = {
    "finished": FinishedJobRegistry,
    "failed": FailedJobRegistry,
    "canceled": CanceledJobRegistry,
}

# Redis refuses an entry after the reserved id, so a second end cannot be written.
_END = """
local function finish(events, job, registry, id, payload, ttl, status, now, expiry)
  local added = redis.pcall('XADD', events, '18446744073709551615-1', 'e', payload)
  if type(added) == 'table' and added.err then
    if string.find(added.err, 'equal or smaller') then return 0 end
    return added
  end
  redis.call('EXPIRE', events, ttl)
  redis.call('HSET', job, 'status', status, 'ended_at', now)
  redis.call('EXPIRE', job, ttl)
  redis.call('ZADD', registry, expiry, id)
  return 1
end
"""

FINISH_RUNNING = (
    _END
    + """
if redis.call('HGET', KEYS[2], 'attempt') ~= ARGV[7] then return 0 end
return finish(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
"""
)

FINISH_WAITING = (
    _END
    + """
if redis.call('LREM', KEYS[4], 1, ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 10000, '*', 'j', ARGV[1])
return finish(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
"""
)

# A dead worker's job: whoever removes its execution from the registry decides, and no one else.
SETTLE_DEAD = (
    _END
    + """
local lease = redis.call('ZSCORE', KEYS[4], ARGV[7])
if lease and tonumber(lease) > tonumber(ARGV[10]) then return 'alive' end
if redis.call('ZREM', KEYS[4], ARGV[7]) == 0 then return 'gone' end
redis.call('DEL', KEYS[7])
redis.call('ZREM', KEYS[8], ARGV[8])
if redis.call('EXISTS', KEYS[2]) == 0 then return 'gone' end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[1] == '18446744073709551615-1' then return 'ended' end
local spoken = last and string.sub(last[1], -2) ~= '-0' and string.sub(last[1], 1, 2) ~= '0-'
local goes_on = ARGV[11] == '1'
if spoken and goes_on then redis.call('HSET', KEYS[2], 'deaths', 0) end
local deaths = redis.call('HINCRBY', KEYS[2], 'deaths', 1)
if (spoken and not goes_on) or deaths >= tonumber(ARGV[9]) then
  finish(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
  redis.call('XADD', KEYS[6], 'MAXLEN', '~', 10000, '*', 'j', ARGV[1])
  return 'failed'
end
local attempt = redis.call('HINCRBY', KEYS[2], 'attempt', 1)
redis.call('XADD', KEYS[1], attempt .. '-0', 'e', '')
redis.call('HSET', KEYS[2], 'status', 'queued', 'worker_name', '', 'started_at', '')
redis.call('LPUSH', KEYS[5], ARGV[1])
return 'requeued'
"""
)

MAX_DEATHS = 4  # a job is run again after three: others may be the killers


def finish_running(connection: Any, job: Job, attempt: int, end: End, ttl: int) -> Any:
    """Ask for the end of a job that this attempt runs: 1, or 0 if it has ended or is another's.

    `connection` is a client or a pipeline, sync or async.
    """
    return connection.eval(FINISH_RUNNING, 3, *_keys(job, end), *_arguments(job, end, ttl), attempt)


def finish_waiting(connection: Any, job: Job, queue_key: str, end: End, ttl: int) -> Any:
    """Ask for the end of a job that still waits in its queue: 1, or 0 if it does not."""
    every_key = [*_keys(job, end), queue_key, keys.STARTED]
    return connection.eval(FINISH_WAITING, 5, *every_key, *_arguments(job, end, ttl))


def settle_dead(
    connection: Any, job: Job, composite: str, queue_key: str, execution_keys: Sequence[str],
    end: End, ttl: int, expired_by: float, resumes: bool,
) -> Any:
    """Requeue or fail a job whose worker has died: b"requeued", b"failed", b"ended", b"gone", or
    b"alive" if its lease was renewed beyond `expired_by` (Unix seconds).

    `composite` is RQ's `job_id:execution_id`; `execution_keys` the execution's hash and the job's
    set of executions. A job that had spoken, unless its task `resumes`, and one that was there at
    MAX_DEATHS without a word in between, fails with `end`.
    """
    every_key = [
        *_keys(job, end), job.started_job_registry.key, queue_key, keys.STARTED, *execution_keys,
    ]
    extra = [composite, composite.rpartition(":")[2], MAX_DEATHS, expired_by, int(resumes)]
    return connection.eval(SETTLE_DEAD, 8, *every_key, *_arguments(job, end, ttl), *extra)


def status_of(end: End) -> str:
    """RQ's status for an end."""
    if isinstance(end, Done):
        return "finished"
    return "canceled" if end.status == 499 else "failed"


def _keys(job: Job, end: End) -> list[str]:
    registry = REGISTRIES[status_of(end)](job.origin, connection=job.connection)
    return [keys.events(job.id), job.key, registry.key]


def _arguments(job: Job, end: End, ttl: int) -> list[Any]:
    now = utcformat(datetime.now(UTC))
    return [job.id, encode(end), ttl, status_of(end), now, current_timestamp() + ttl]
