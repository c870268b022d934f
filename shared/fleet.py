"""What the supervisor is asked to run: the hash `keys.REPLICAS`, which the steward writes."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from redis import Redis

from shared import keys

WAKES = 100  # entries kept in a stream that wakes somebody


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model: how many workers, and what each may take of the machine's memory.

    `since` is when this was decided (Unix seconds).
    """

    replicas: int
    share_mb: int
    since: float = 0.0


def read(raw: Mapping[bytes, bytes]) -> dict[str, Wanted]:
    """The hash, by model id."""
    return {model.decode(): msgspec.json.decode(value, type=Wanted) for model, value in raw.items()}


def write(redis: Redis, changes: Mapping[str, Wanted], *, anew: bool = False) -> None:
    """Change what is wanted of these models, `anew` of all of them, and wake the supervisor."""
    with redis.pipeline() as pipe:
        if anew:
            pipe.delete(keys.REPLICAS)
        if changes:
            encoded = {model: msgspec.json.encode(each) for model, each in changes.items()}
            pipe.hset(keys.REPLICAS, mapping=encoded)
        wake(pipe, keys.SUPERVISOR_WAKE)
        pipe.execute()


def wanted(replicas: int, share: int) -> Wanted:
    """From now on; `share` in bytes."""
    return Wanted(replicas=replicas, share_mb=-(-share >> 20) if share else 0, since=time.time())


def wake(pipe: Any, stream: str, what: str = "") -> None:
    pipe.xadd(stream, {"m": what}, maxlen=WAKES, approximate=True)


def hear(redis: Redis, stream: str, heard: str, seconds: float) -> str:
    """Sleep until somebody wakes, at most so long. `heard` is what this returned before, at first "0-0"."""
    if redis.xread({stream: heard}, block=int(seconds * 1000)):
        return redis.xrevrange(stream, count=1)[0][0].decode()
    return heard
