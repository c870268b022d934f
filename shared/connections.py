"""Connections to Redis, which may go away for a while and come back."""

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

# TCP connections are kept alive by redis-py itself: silent for 30 s, they are probed every 5 s, three times.
# A blocking read lasts 5 s at most; redis-py's own limit of 5 s would end it, and none at all would
# wait for ever on a connection whose other end is gone.
_OPTIONS = {"socket_timeout": 15, "socket_connect_timeout": 5, "protocol": 3}


def connect(url: str, retries: int = 120) -> redis.Redis:
    """A client for threads. It rides out an outage of about two minutes."""
    retry = Retry(ExponentialBackoff(cap=1, base=0.02), retries)
    return redis.Redis.from_url(url, retry=retry, **_OPTIONS)


def connect_async(url: str, retries: int = 5) -> redis.asyncio.Redis:
    """A client for an event loop. An outage of more than half a second is an error."""
    retry = AsyncRetry(ExponentialBackoff(cap=0.5, base=0.02), retries)
    return redis.asyncio.Redis.from_url(url, retry=retry, max_connections=1024, **_OPTIONS)
