"""The worker processes of a supervisor: as many of each model as is wanted."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import count

import msgspec
import redis

from shared import fleet, keys
from shared.fleet import Wanted
from shared.settings import Settings
from workers.children import Child
from workers.redis_state import connect

LOOK = 1.0  # seconds between two looks at what is wanted, when nothing wakes
PAUSE = 0.2  # seconds, while Redis is away

Make = Callable[[str, str, int], Child]  # (its name, the model, MiB of its share) -> not started yet

log = logging.getLogger("ominix.supervisor")


class Fleet:
    """All of it happens in the supervisor's main thread, but for looking at `workers`."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self.workers: tuple[Child, ...] = ()

    def reconcile(self, wanted: Mapping[str, Wanted]) -> None:
        """Add the workers that are missing, and tell those that are too many to leave, the youngest first."""
        models = dict.fromkeys([*wanted, *(child.model for child in self.workers)])
        for model in models:
            staying = [child for child in self.workers if child.model == model and not child.retired]
            target = wanted[model].replicas if model in wanted else 0
            for child in staying[target:]:
                child.retired = True
                child.leave()
            for _ in range(target - len(staying)):
                child = self._make(self._free_name(model), model, wanted[model].share_mb)
                self.workers = (*self.workers, child)

    def recycle(self, names: Iterable[str]) -> None:
        """Have these workers replaced by new processes."""
        for child in self.workers:
            if child.worker_name in names:
                child.leave()

    def forget_retired(self) -> None:
        """Those that have ended."""
        self.workers = tuple(child for child in self.workers if child.running or not child.retired)

    def _free_name(self, model: str) -> str:
        taken = {child.name for child in self.workers}
        names = (model if number == 1 else f"{model}.{number}" for number in count(1))
        return next(name for name in names if name not in taken)


class Watch(threading.Thread):
    """Sees what is wanted, in a thread of its own: looking after processes must go on while Redis is away.

    `wake` is called when there is news. What the supervisor began with is written once, and again if Redis
    has lost it.
    """

    def __init__(self, settings: Settings, first: Mapping[str, Wanted], wake: Callable[[], None]) -> None:
        super().__init__(name="watch", daemon=True)
        self.wanted = dict(first)
        self._wake = wake
        self._client = connect(settings, timeout=5.0)
        self._heard = "0-0"
        self._recycle: set[str] = set()
        self._written = False
        self._stopped = threading.Event()

    def write(self) -> None:
        """Say what is wanted. Raises RedisError."""
        fleet.write(self._client, self.wanted, anew=True)
        self._client.delete(keys.RECYCLE)
        self._written = True

    def take_recycled(self) -> set[str]:
        """The names of workers to be replaced, once."""
        taken, self._recycle = self._recycle, set()
        return taken

    def close(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._look()
            except (redis.RedisError, OSError):
                self._stopped.wait(PAUSE)
            except msgspec.MsgspecError:
                log.exception("what is wanted cannot be read")
                self._stopped.wait(LOOK)

    def _look(self) -> None:
        if not self._written:
            self.write()
        with self._client.pipeline() as pipe:
            pipe.hgetall(keys.REPLICAS)
            pipe.smembers(keys.RECYCLE)
            pipe.delete(keys.RECYCLE)
            raw, recycle, _ = pipe.execute()
        if not raw and self.wanted:
            self._written = False
            return
        wanted = fleet.read(raw)
        if recycle or wanted != self.wanted:
            self.wanted = wanted
            self._recycle |= {name.decode() for name in recycle}
            self._wake()
        self._listen()

    def _listen(self) -> None:
        """Sleep until somebody wakes, or for a while."""
        self._heard = fleet.hear(self._client, keys.SUPERVISOR_WAKE, self._heard, LOOK)
