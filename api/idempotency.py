"""Idempotency-Keys: the same key gives the same job."""

import asyncio
import hashlib

import msgspec
from redis.asyncio import Redis

from shared import keys
from shared.blobs import BlobStore
from shared.errors import Conflict
from shared.jobs import JobSpec
from shared.queues import StrictJob

# Take an Idempotency-Key from whom it was seen with.
TAKE_KEY = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


class IdempotencyKeys:
    def __init__(self, redis: Redis, blobs: BlobStore, ttl: int) -> None:
        self._redis = redis
        self._blobs = blobs
        self._ttl = ttl

    async def claim(self, idempotency_key: str, spec: JobSpec) -> str | None:
        """Take the key for this job, or return the id of the job that has it. Raises Conflict."""
        key = _key_of(idempotency_key)
        mine = f"{spec.id} {await self._fingerprint(spec)}"
        ttl = self._ttl
        for _ in range(50):
            if await self._redis.set(key, mine, nx=True, ex=ttl):
                return None
            held = (await self._redis.get(key)) or b""
            older, _, fingerprint = held.decode().partition(" ")
            if older and fingerprint != mine.partition(" ")[2]:
                raise Conflict("This Idempotency-Key was used before for another request.")
            if older and await self._redis.exists(StrictJob.key_for(older)):
                return older
            await asyncio.sleep(0.02)
        # its first request was lost on its way: take the key from it, unless another has just done so
        if await self._redis.eval(TAKE_KEY, 1, key, held, mine, ttl):
            return None
        raise Conflict("Another request with this Idempotency-Key is on its way. Please try again.")

    async def release(self, idempotency_key: str, spec: JobSpec) -> None:
        """A request that was refused leaves its key free."""
        key = _key_of(idempotency_key)
        if ((await self._redis.get(key)) or b"").startswith(spec.id.encode()):
            await self._redis.delete(key)

    async def _fingerprint(self, spec: JobSpec) -> str:
        """Of all that was asked, an upload's bytes included."""
        digest = await asyncio.to_thread(self._blobs.digest, spec.blob) if spec.blob else None
        asked = [spec.task, spec.model, spec.params, digest, spec.path, spec.filename]
        return hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()


def _key_of(idempotency_key: str) -> str:
    return keys.idempotency(hashlib.sha256(idempotency_key.encode()).hexdigest())
