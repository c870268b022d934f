"""A job that this worker cannot run, but another may: back to the front of its queue, a few times."""

from redis import Redis
from rq.executions import ExecutionRegistry

from shared import keys
from shared.queues import make_queue
from workers.flight import Flight

MAX_RETURNS = 20

# As the settling of a dead worker's job, but it counts as no death. Another attempt's is left alone.
GIVE_BACK = """
if redis.call('HGET', KEYS[2], 'attempt') ~= ARGV[4] then return 1 end
if tonumber(redis.call('HGET', KEYS[2], 'returns') or 0) >= tonumber(ARGV[5]) then return 0 end
if redis.call('ZREM', KEYS[3], ARGV[2]) == 0 then return 1 end
redis.call('DEL', KEYS[5])
redis.call('ZREM', KEYS[6], ARGV[3])
redis.call('HINCRBY', KEYS[2], 'returns', 1)
local attempt = redis.call('HINCRBY', KEYS[2], 'attempt', 1)
redis.call('XADD', KEYS[1], attempt .. '-0', 'e', '')
redis.call('HSET', KEYS[2], 'status', 'queued', 'worker_name', '', 'started_at', '')
redis.call('LPUSH', KEYS[4], ARGV[1])
return 1
"""


def give_back(redis: Redis, flight: Flight) -> bool:
    """True if the job is no longer this worker's; False if it has been given back too often."""
    job, execution = flight.job, flight.execution
    every_key = [
        keys.events(job.id),
        job.key,
        job.started_job_registry.key,
        make_queue(job.origin, redis).key,
        execution.key,
        ExecutionRegistry(job.id, redis).key,
    ]
    arguments = [job.id, execution.composite_key, execution.id, flight.attempt, MAX_RETURNS]
    return bool(redis.eval(GIVE_BACK, len(every_key), *every_key, *arguments))
