"""The heartbeat: renews leases, says how the worker is, hears what should stop."""

import logging
import os
import socket
import threading
import time

from redis import Redis
from redis.exceptions import RedisError
from rq.worker.base import WorkerStatus

from shared import keys
from workers.memory import footprint
from workers.worker import EngineWorker

BLOCK = 1.0  # seconds; also how often the worker's record is written
STALLED = 10.0  # seconds of one step after which the worker no longer counts as ready

log = logging.getLogger("ominix.heartbeat")


class Heartbeat(threading.Thread):
    """Shares no thread with slow work, and has a connection of its own."""

    def __init__(self, worker: EngineWorker, redis: Redis) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._worker = worker
        self._redis = redis
        self._heard = "$"
        self._renewed = 0.0
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._beat()
                self._listen()
            except RedisError as error:
                log.warning("%s; trying again", error)
                time.sleep(0.2)

    def _beat(self) -> None:
        worker = self._worker
        if (parent := worker.settings.supervisor_pid) and os.getppid() != parent:
            log.warning("the supervisor has died")
            worker.draining.set()
        worker.expire()
        with self._redis.pipeline() as pipeline:
            if time.monotonic() - self._renewed > worker.settings.lease / 3:
                worker.renew_leases(pipeline)
                self._renewed = time.monotonic()
            worker.set_state(WorkerStatus.BUSY if worker.flights else WorkerStatus.IDLE, pipeline)
            pipeline.hset(keys.worker(worker.name), mapping=self._record())
            pipeline.expire(keys.worker(worker.name), worker.settings.lease)
            pipeline.sadd(keys.WORKERS, worker.name)
            pipeline.execute()

    def _record(self) -> dict[str, str | int | float]:
        worker = self._worker
        taken, most = footprint()
        return {
            "model": worker.entry.id,
            "state": self._state(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "capacity": worker.slots.count,
            "running": len(worker.flights),
            "memory": taken,
            "peak": most,
            "share_mb": worker.settings.memory_share_mb,
            "idle_since": 0 if worker.flights else round(worker.slots.used, 3),
            "supervised": int(bool(worker.settings.supervisor_pid)),
        }

    def _state(self) -> str:
        worker = self._worker
        since = worker.room.stepping_since
        if worker.draining.is_set():
            return "draining"
        if not worker.room.loaded.is_set():
            return "loading"
        if worker.files.stuck:
            return "stalled"
        if since is not None and time.monotonic() - since > STALLED:
            return "stalled"
        return "ready"

    def _listen(self) -> None:
        """Sleep until a second has gone or somebody asks to cancel a job."""
        stream = keys.control(self._worker.entry.id)
        if self._heard == "$":
            last = self._redis.xrevrange(stream, count=1)
            self._heard = last[0][0].decode() if last else "0-0"
        block = 100 if self._state() == "loading" else int(BLOCK * 1000)
        reply = self._redis.xread({stream: self._heard}, block=block)
        for _, entries in reply.items() if reply else ():
            for entry_id, fields in entries[0]:
                self._heard = entry_id.decode()
                self._worker.cancel(fields[b"j"].decode())
