"""The job object of the HTTP API, from RQ's job and the last of its events."""

from collections.abc import Callable

from redis.asyncio import Redis

from shared import keys
from shared.channel import parse_id
from shared.errors import NotFound
from shared.events import Delta, Done, Event, Failed, decode
from shared.queues import StrictJob, queue_key, seconds
from shared.tasks import named

STATUS = {"queued": "queued", "started": "in_progress", "finished": "completed",
          "failed": "failed", "canceled": "cancelled"}
PAGE = 200  # jobs looked at in one round trip


async def view(redis: Redis, job: StrictJob) -> dict:
    return (await _views(redis, [job]))[0]


async def page(
    redis: Redis,
    restore: Callable[[str, dict], StrictJob | None],
    status: str | None,
    model: str | None,
    after: str | None,
    limit: int,
) -> dict:
    """Up to `limit` jobs older than `after`, newest first, in the shape of OpenAI's lists."""
    start = 0
    if after is not None:
        rank = await redis.zrevrank(keys.JOBS, after)
        if rank is None:
            raise NotFound(f"There is no job '{after}' to list after.", param="after")
        start = rank + 1
    found: list[StrictJob] = []
    while len(found) <= limit:
        ids = [each.decode() for each in await redis.zrevrange(keys.JOBS, start, start + PAGE - 1)]
        if not ids:
            break
        start += len(ids)
        found += [job for job in await _jobs(redis, restore, ids) if _matches(job, status, model)]
    data = await _views(redis, found[:limit])
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > limit,
    }


async def _jobs(redis: Redis, restore: Callable, ids: list[str]) -> list[StrictJob]:
    async with redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hgetall(StrictJob.key_for(job_id))
        raws = await pipe.execute()
    restored = (restore(job_id, raw) for job_id, raw in zip(ids, raws, strict=True))
    return [job for job in restored if job]


def _matches(job: StrictJob, status: str | None, model: str | None) -> bool:
    return (status is None or _status(job) == status) and (model is None or job.spec.model == model)


async def _views(redis: Redis, jobs: list[StrictJob]) -> list[dict]:
    async with redis.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.xrevrange(keys.events(job.id), count=1)
            pipe.lpos(queue_key(job.origin), job.id)
        replies = await pipe.execute() if jobs else []
    return [
        _view(job, _event(last), position)
        for job, last, position in zip(jobs, replies[::2], replies[1::2], strict=True)
    ]


def _event(entries: list) -> Event | None:
    if not entries or not parse_id(entries[0][0])[1]:
        return None
    return decode(entries[0][1][keys.FIELD])


def _view(job: StrictJob, last: Event | None, position: int | None) -> dict:
    spec = job.spec
    status = _status(job)
    return {
        "id": spec.id,
        "object": "job",
        "endpoint": named(spec.task).ENDPOINT,
        "model": spec.model,
        "status": status,
        "position": None if position is None else position + 1,
        "progress": _progress(status, last),
        "created_at": int(spec.created),
        "started_at": seconds(job.started_at),
        "finished_at": seconds(job.ended_at),
        "error": last.body()["error"] if isinstance(last, Failed) else None,
        "usage": last.usage if isinstance(last, Done) else None,
    }


def _status(job: StrictJob) -> str:
    return STATUS.get(job.get_status(refresh=False), "queued")


def _progress(status: str, last: Event | None) -> float:
    if status == "completed":
        return 1.0
    return (last.progress or 0.0) if isinstance(last, Delta) else 0.0

