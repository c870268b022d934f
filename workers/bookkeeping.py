"""What a supervisor writes into Redis, in a thread of its own: looking after processes must go on
while Redis is away."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

import redis

from shared import keys
from shared.settings import Settings
from workers.children import Child
from workers.embedded import keep_socket
from workers.reaper import Reaper
from workers.redis_state import connect
from workers.settle import settle_worker

PERIOD = 1.0  # seconds between two passes
LIFETIME = 15  # seconds after which the words of a supervisor that was killed are forgotten

log = logging.getLogger("ominix.supervisor")


class Bookkeeper(threading.Thread):
    """Settles the jobs of dead workers at once, and each second sweeps and says how models fare."""

    def __init__(self, settings: Settings, workers: Callable[[], Sequence[Child]]) -> None:
        super().__init__(name="bookkeeper", daemon=True)
        self._settings = settings
        self._workers = workers
        self._dead: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._client = connect(settings, timeout=5.0)
        self._reaper = Reaper(self._client, settings)

    def settle(self, worker_name: str) -> None:
        """Have the jobs of a worker that has died settled. Returns at once."""
        self._dead.put(worker_name)

    def close(self, patience: float = 10.0) -> None:
        """Settle what is left, and forget the models."""
        self._dead.put(None)
        self.join(patience)
        self._client.close()

    def run(self) -> None:
        unsettled: list[str] = []
        closing = False
        next_pass = time.monotonic()
        while not closing:
            try:
                name = self._dead.get(timeout=max(0.0, next_pass - time.monotonic()))
                closing = name is None
                unsettled += [name] if name else []
            except queue.Empty:
                next_pass = time.monotonic() + PERIOD
                self._safely(self._pass)
            unsettled = [name for name in unsettled if not self._safely(self._settle, name)]
        self._safely(self._client.delete, keys.SUPERVISED, keys.REPLICAS, keys.RECYCLE)

    def _settle(self, worker_name: str) -> None:
        settle_worker(self._client, worker_name, self._settings)

    def _pass(self) -> None:
        self._publish()
        self._reaper.sweep()
        if not self._settings.redis_url:
            keep_socket(self._settings)

    def _publish(self) -> None:
        workers = [child for child in self._workers() if not child.retired]
        names = [child.worker_name for child in workers]
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hget(keys.worker(name), "state")
            ready = {name for name, state in zip(names, pipe.execute(), strict=True) if state == b"ready"}
        with self._client.pipeline() as pipe:
            pipe.delete(keys.SUPERVISED)  # a model that was unloaded has no state
            if states := fare(workers, ready):
                pipe.hset(keys.SUPERVISED, mapping=states)
                pipe.expire(keys.SUPERVISED, LIFETIME)
            pipe.execute()

    def _safely(self, act: Callable[..., object], *arguments: object) -> bool:
        """Whether it went well. When Redis is away it is tried again in the next pass."""
        try:
            act(*arguments)
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        except Exception:  # one bad record must not end the sweeping of all others
            log.exception("The supervisor's bookkeeping failed")
        return True


def fare(workers: Sequence[Child], ready: set[str]) -> dict[str, str]:
    """How each model fares by its best replica: "running", "starting" or "failed: why"."""
    states: dict[str, str] = {}
    for child in workers:
        if child.worker_name in ready:
            states[child.model] = "running"
        elif not child.hopeless:
            states[child.model] = max(states.get(child.model, ""), "starting", key=_rank)
        else:
            states.setdefault(child.model, f"failed: {child.last_words}")
    return states


def _rank(state: str) -> int:
    return ("", "failed", "starting", "running").index(state.partition(":")[0])
