"""The supervisor: starts Redis, the API, the steward and the workers, and starts again whatever dies."""

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence

import msgspec
import redis

from shared import fleet
from shared.fleet import Wanted
from shared.management import STEWARD
from shared.manifest import Manifest
from shared.settings import Settings
from workers import budget, embedded, footprint, memory, redis_state
from workers.bookkeeping import Bookkeeper
from workers.children import Backoff, Child, Log, describe, print_line
from workers.fleet import Fleet, Make, Watch
from workers.signals import Signals
from workers.startup import StartError

LOADING = 120.0  # seconds that Redis may take to load its data
GRACE = 5.0  # seconds beyond the drain after which a child is killed
PATIENCE = 3600.0  # seconds that a worker may take for what it runs when nobody is in a hurry
GLANCE = 1.0  # seconds between two looks when nothing happens; an adopted process sends no signal
PYTHON = (sys.executable, "-P")  # without the current folder, which may hold packages of our names


class Supervisor:
    """Runs the parts of one system until it is told to stop.

    `others` are children that have not been started, the API first; `make` makes one of a model, of which
    `wanted` says how many there are at first. `plan` makes the usual ones.
    """

    def __init__(
        self,
        settings: Settings,
        others: Sequence[Child],
        make: Make,
        wanted: Mapping[str, Wanted],
        *,
        backoff: Backoff | None = None,
        log: Log | None = None,
    ) -> None:
        self.settings = settings
        self.api, *self.stewards = others
        self.fleet = Fleet(make)
        self.log = log or print_line
        self.redis = None
        if not settings.redis_url:
            self.redis = Child(
                "redis", [*PYTHON, "-m", "cli", "redis"], environ(settings), backoff=backoff, log=log
            )
        self._signals = Signals()
        self._bookkeeper = Bookkeeper(settings, lambda: self.workers)
        self._watch = Watch(settings, wanted, self._signals.poke)
        self._stops_redis = True

    @property
    def workers(self) -> list[Child]:
        """Whose jobs have to be settled when they die."""
        return [*self.stewards, *self.fleet.workers]

    def run(self) -> int:
        """Start everything, look after it until SIGTERM, SIGINT or SIGHUP, and stop everything.

        A second signal hurries. Returns 0; raises StartError if Redis cannot be had.
        """
        with self._signals:
            try:
                self._start_redis()
                with contextlib.suppress(redis.RedisError):  # the watch tries again
                    self._watch.write()
                self._watch.start()
                self._bookkeeper.start()
                while not self._signals.stops:
                    self._reconcile()
                    self._look_after([self.api, *self.workers, self.redis])
                    self._signals.wait(self._pause())
            finally:
                self._stop()
        return 0

    def _start_redis(self) -> None:
        if self.redis and (live := redis_state.find_live(self.settings)):
            self._stops_redis = embedded.is_supervised(self.settings, live.pid)
            self.redis.adopt(live)
            self.log("redis", f"already running as process {live.pid}: using it")
        elif self.redis:
            self.redis.start()
        if not redis_state.wait_until_up(self.settings, LOADING, self._may_wait):
            if not self._signals.stops:
                raise StartError(self._why_no_redis())
        elif not self.redis:
            for warning in redis_state.check_external(self.settings):
                self.log("redis", warning)

    def _may_wait(self) -> bool:
        self._signals.wait(0)
        return not self._signals.stops and (self.redis is None or self.redis.ended() is None)

    def _why_no_redis(self) -> str:
        words = self.redis.last_words if self.redis else "it does not answer"
        return f"Redis at {embedded.where(self.settings)} is not to be had: {words}."

    def _reconcile(self) -> None:
        self.fleet.reconcile(self._watch.wanted)
        self.fleet.recycle(self._watch.take_recycled())

    def _look_after(self, children: Sequence[Child | None]) -> None:
        for child in filter(None, children):
            worker_name = child.worker_name
            status = child.ended()
            if status is not None:
                self._bury(child, worker_name, status)
            child.hurry()
            if not child.running and not child.retired and child.due() <= 0:
                child.start()
                if child is self.redis:
                    self._stops_redis = True
        self.fleet.forget_retired()

    def _bury(self, child: Child, worker_name: str, status: int) -> None:
        if child.model:
            self._bookkeeper.settle(worker_name)
        if child.retired:
            return self.log(child.name, "it is unloaded")
        again = f"starting it again in {max(0.0, child.due()):.1f} s"
        self.log(child.name, f"{describe(status)}; {again}")

    def _pause(self) -> float:
        if self.redis and isinstance(self.redis.process, redis_state.Adopted):
            return GLANCE / 10
        every = (self.api, *self.workers, self.redis)
        idle = [child for child in every if child and not child.running and not child.retired]
        return min([GLANCE, *(child.due() for child in idle)])

    def _stop(self) -> None:
        """The API first, so that its answers still find workers; then the workers; Redis last."""
        if self._signals.stops:
            self.log("ominix", "stopping; Ctrl-C again to hurry")
        redis = [self.redis] if self.redis else []
        patience = self.settings.drain_timeout + GRACE
        self._end([self.api], patience, redis, scaling=True)
        self._watch.close()
        self._end(self.workers, patience, redis)
        if self._bookkeeper.is_alive():
            self._bookkeeper.close()
        if self._stops_redis:
            self._end(redis, GRACE * 2, [])

    def _end(
        self, children: Sequence[Child], patience: float, others: Sequence[Child], scaling: bool = False
    ) -> None:
        """Ask, wait for `patience` seconds or a second signal, then kill. `others` live on meanwhile, and if
        it is still `scaling` the workers, of which there may be more or fewer."""
        for child in children:
            child.terminate()
        deadline = time.monotonic() + patience
        while any(child.running for child in children):
            if time.monotonic() > deadline or (self._signals.stops > 1 and self.redis not in children):
                for child in children:
                    child.kill()
            self._signals.wait(0.1)
            for child in children:
                if child.ended() is not None and child.model:
                    self._bookkeeper.settle(child.worker_name)
            if scaling:
                self._reconcile()
            self._look_after([*self.workers, *others] if scaling else others)


def plan(
    settings: Settings, manifest: Manifest, log: Log = print_line
) -> tuple[list[Child], Make, dict[str, Wanted]]:
    """The API and the steward, what makes a worker, all as processes of the `ominix` command, and how many
    workers of each model there are at first: as many as fit into the budget."""
    base = environ(settings)
    api = Child("api", [*PYTHON, "-m", "cli", "api"], base)
    steward = Child(STEWARD, [*PYTHON, "-m", "cli", "steward"], base, model=STEWARD)

    def make(name: str, model: str, share_mb: int) -> Child:
        told = {**base, "OMINIX_MEMORY_SHARE_MB": str(share_mb)}
        command = [*PYTHON, "-m", "cli", "worker", model]
        return Child(name, command, told, model=model, patience=PATIENCE)

    return [api, steward], make, first(settings, manifest, log)


def first(settings: Settings, manifest: Manifest, log: Log = print_line) -> dict[str, Wanted]:
    """How many workers of each model the system starts with."""
    entries = tuple(entry for entry in manifest.entries if entry.tasks)
    limit = memory.budget(settings.memory_budget_mb)
    needs = {entry.id: footprint.estimate(entry, settings.models_dir) for entry in entries}
    replicas, left = budget.first_fitting(entries, needs, limit)
    for model in left:
        need, most = budget.readable(needs[model]), budget.readable(limit)
        log(model, f"a worker takes about {need}: not all fit into {most}, the rest comes on demand")
    return {entry.id: fleet.wanted(replicas[entry.id], needs[entry.id]) for entry in entries}


def environ(settings: Settings) -> dict[str, str]:
    """The environment of a child: this process's, and every setting as it is here."""
    told = {f"OMINIX_{name.upper()}": str(value) for name, value in msgspec.structs.asdict(settings).items()}
    own = {"OMINIX_SUPERVISOR_PID": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **told, **own}
