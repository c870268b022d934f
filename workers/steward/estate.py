"""What runs on this machine, what is wanted and what waits: all that decisions about memory are made of."""

import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import msgspec
from redis import Redis

from shared import fleet, keys
from shared.errors import Unavailable
from shared.fleet import Wanted
from shared.jobs import LANES
from shared.management import STEWARD
from shared.manifest import Manifest, ModelEntry
from shared.queues import queue_key, queue_name
from shared.settings import Settings
from workers import footprint, memory
from workers.budget import Tenant

FRESH = 0.04  # seconds: what is asked within one step sees the same
GROWTH = 1.25  # times its share a worker may take while there is room: an estimate is one
LINGER = 60.0  # seconds after which a process that outlives its record is no worker of ours any more
NEW = 120.0  # seconds after it was wanted that a worker's peak is that of its loading

Raw = Mapping[bytes, bytes]


class Worker(msgspec.Struct, frozen=True):
    """A worker process by its own record; sizes in bytes."""

    name: str
    model: str
    state: str
    host: str
    pid: int
    memory: int
    peak: int
    share: int
    idle_since: float
    supervised: bool

    @property
    def leaving(self) -> bool:
        return self.state == "draining"

    @property
    def charge(self) -> int:
        return max(self.memory, self.share)


class Survey(msgspec.Struct):
    """One look. `here` are the workers of this machine, `workers` all of them; `left` the bytes by model of
    processes that are about to end and say nothing any more."""

    now: float
    host: str
    wanted: dict[str, Wanted]
    workers: list[Worker]
    waiting: dict[str, int]
    supervised: dict[str, str]
    left: dict[str, int]
    ready_since: dict[str, float]

    @property
    def here(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.host == self.host]

    def replicas(self, model: str) -> int:
        """How many the supervisor is to run."""
        return self.wanted[model].replicas if model in self.wanted else 0

    def ours(self, model: str) -> list[Worker]:
        """Those that the supervisor of this machine runs, leaving or not."""
        return [worker for worker in self.here if worker.model == model and worker.supervised]

    def ready(self, model: str) -> int:
        """How many of its workers here take jobs."""
        return sum(worker.state == "ready" for worker in self.ours(model))

    def is_served(self, model: str) -> bool:
        """Whether somebody takes its jobs, or soon will."""
        return self.replicas(model) > 0 or any(
            worker.model == model and not worker.leaving for worker in self.workers
        )

    def is_answered(self, model: str) -> bool:
        """Whether somebody, here or elsewhere, takes its jobs now."""
        return any(worker.model == model and worker.state == "ready" for worker in self.workers)

    def idle_since(self, model: str) -> float:
        """Unix seconds; 0 while it has work, or not all of its workers are ready."""
        staying = [worker for worker in self.ours(model) if not worker.leaving]
        ready = all(worker.state == "ready" and worker.idle_since for worker in staying)
        if not ready or self.waiting.get(model) or len(staying) < max(1, self.replicas(model)):
            return 0.0
        return max(worker.idle_since for worker in staying)


class Estate:
    """Both threads of the steward look at it; only the engine's decides."""

    def __init__(self, redis: Redis, settings: Settings, manifest: Callable[[], Manifest]) -> None:
        self.redis = redis
        self.settings = settings
        self.budget = memory.budget(settings.memory_budget_mb)
        self.line: list[object] = []  # the loads that wait for memory, in the order they came
        self._manifest = manifest
        self._host = socket.gethostname()
        self._lock = threading.Lock()
        self._last: Survey | None = None
        self._looked = 0.0
        self._estimates: dict[str, tuple[ModelEntry, int]] = {}
        self._measured: dict[str, int] = {}  # model -> the most that one took until it was ready
        self._seen: dict[str, int] = {}  # model -> the most that one took at work
        self._known: dict[int, tuple[str, int, float]] = {}  # process -> model, memory, when last heard of
        self._met: set[str] = set()  # workers that were seen ready
        self._ready: dict[str, float] = {}  # model -> since when all its workers are

    # --- models

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        return self._manifest().entries

    def entry(self, model: str) -> ModelEntry:
        """Raises NotFound."""
        return self._manifest().resolve(model)

    def need(self, entry: ModelEntry) -> int:
        """Bytes of one worker: the estimate, or what one was seen to take if that is more. What grows without
        end is no need."""
        known, size = self._estimates.get(entry.id, (None, 0))
        if known != entry:
            size = footprint.estimate(entry, self.settings.models_dir)
            self._estimates[entry.id] = entry, size
        seen = min(self._seen.get(entry.id, 0), int(size * GROWTH))
        return max(size, seen, self._measured.get(entry.id, 0))

    def is_pinned(self, model: str) -> bool:
        return any(entry.id == model and entry.pinned for entry in self.entries)

    def forget(self, model: str) -> None:
        """Its files may be others now."""
        self._estimates.pop(model, None)

    def share(self, model: str, survey: Survey) -> int:
        """Bytes that each of its workers may take."""
        share = survey.wanted[model].share_mb << 20 if model in survey.wanted else 0
        return max(share, self._measured.get(model, 0)) if share else 0

    # --- looking

    def look(self) -> Survey:
        """Raises RedisError."""
        with self._lock:
            if self._last is None or time.monotonic() - self._looked > FRESH:
                self._last = self._survey()
                self._looked = time.monotonic()
            return self._last

    def check_supervisor(self, survey: Survey) -> None:
        """Raises Unavailable where nobody starts and ends workers."""
        if STEWARD not in survey.supervised:
            raise Unavailable(
                "Workers are started and ended by hand here: run `ominix worker ID` once for each that there "
                "is to be, or `ominix serve`, which does it for you."
            )

    def want(self, changes: Mapping[str, Wanted]) -> None:
        """Tell the supervisor."""
        fleet.write(self.redis, changes)
        with self._lock:
            self._last = None

    def _survey(self) -> Survey:
        names = [name.decode() for name in self.redis.smembers(keys.WORKERS)]
        models = [entry.id for entry in self.entries]
        with self.redis.pipeline() as pipe:
            pipe.hgetall(keys.REPLICAS)
            pipe.hgetall(keys.SUPERVISED)
            for model in models:
                for lane in LANES:
                    pipe.llen(queue_key(queue_name(model, lane)))
            for name in names:
                pipe.hgetall(keys.worker(name))
            wanted, supervised, *rest = pipe.execute()
        lengths, records = rest[: 2 * len(models)], rest[2 * len(models) :]
        found = [_worker(name, record) for name, record in zip(names, records, strict=True) if record]
        survey = Survey(
            now=time.time(),
            host=self._host,
            wanted=fleet.read(wanted),
            workers=[worker for worker in found if worker.model != STEWARD],
            waiting={model: sum(lengths[2 * n : 2 * n + 2]) for n, model in enumerate(models)},
            supervised={model.decode(): said.decode() for model, said in supervised.items()},
            left={},
            ready_since={},
        )
        self._remember(survey)
        return survey

    def _remember(self, survey: Survey) -> None:
        """What only several looks can tell."""
        for worker in survey.here:
            self._known[worker.pid] = worker.model, worker.charge, survey.now
            self._seen[worker.model] = max(worker.memory, self._seen.get(worker.model, 0))
            if worker.state == "ready" and worker.name not in self._met:
                self._met.add(worker.name)
                asked = survey.wanted.get(worker.model)
                if asked and survey.now - asked.since < NEW:
                    self._measured[worker.model] = max(worker.peak, self._measured.get(worker.model, 0))
        self._met &= {worker.name for worker in survey.workers}
        survey.left = self._silent({worker.pid for worker in survey.here}, survey.now)
        ready = [model for model in survey.wanted if survey.ready(model) >= max(1, survey.replicas(model))]
        self._ready = {model: self._ready.get(model, survey.now) for model in ready}
        survey.ready_since = self._ready

    def _silent(self, speaking: set[int], now: float) -> dict[str, int]:
        """A worker takes itself off the lists shortly before its process ends."""
        left: dict[str, int] = defaultdict(int)
        for pid, (model, size, heard) in list(self._known.items()):
            if pid in speaking:
                continue
            if now - heard > LINGER or not _exists(pid):
                del self._known[pid]
            else:
                left[model] += size
        return dict(left)


def tenants(estate: Estate, survey: Survey) -> list[Tenant]:
    """Everybody who takes memory of this machine, or is about to."""
    models = dict.fromkeys([*survey.wanted, *(worker.model for worker in survey.here), *survey.left])
    return [tenant for model in models for tenant in _tenants_of(model, estate, survey)]


def _tenants_of(model: str, estate: Estate, survey: Survey) -> Iterable[Tenant]:
    ours = sorted(survey.ours(model), key=lambda worker: (worker.leaving, worker.name))
    wanted = survey.replicas(model)
    count = sum(not worker.leaving for worker in ours)
    staying, going = ours[: min(count, wanted)], ours[min(count, wanted) :]  # these know it, or soon will
    missing = max(0, wanted - count)
    size = sum(worker.charge for worker in staying) + missing * estate.share(model, survey)
    if size:
        yield Tenant(
            model=model,
            bytes=size,
            idle_since=survey.idle_since(model),
            loaded=survey.ready_since.get(model, 0.0),
            fixed=estate.is_pinned(model),
        )
    if gone := sum(worker.charge for worker in going) + survey.left.get(model, 0):
        yield Tenant(model=model, bytes=gone, leaving=True)
    others = (worker for worker in survey.here if worker.model == model and not worker.supervised)
    if by_hand := sum(worker.charge for worker in others):
        yield Tenant(model=model, bytes=by_hand, fixed=True)


def _worker(name: str, record: Raw) -> Worker:
    def number(field: bytes) -> float:
        return float(record.get(field) or 0)

    return Worker(
        name=name,
        model=record.get(b"model", b"").decode(),
        state=record.get(b"state", b"").decode(),
        host=record.get(b"host", b"").decode(),
        pid=int(number(b"pid")),
        memory=int(number(b"memory")),
        peak=int(number(b"peak")),
        share=int(number(b"share_mb")) << 20,
        idle_since=number(b"idle_since"),
        supervised=bool(number(b"supervised")),
    )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
