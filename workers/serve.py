"""`ominix worker`: load a model and serve it until told to stop."""

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from shared import kinds
from shared.connections import connect
from shared.manifest import Manifest, ModelEntry
from shared.settings import Settings
from workers import memory, ranks, weights
from workers.children import LEAVE
from workers.engine import Engine
from workers.engines import leave_thread
from workers.footprint import WITH_MLX
from workers.heartbeat import Heartbeat
from workers.priority import Priority, join
from workers.worker import EngineWorker

log = logging.getLogger("ominix.worker")


def main(model: str, settings: Settings, manifest: Manifest) -> int:
    """Serve one model until SIGTERM or SIGINT. Returns the exit code."""
    entry = manifest.resolve(model)
    if place := ranks.place():
        if place.rank:
            return follow(entry, settings, place)
        if not settings.supervisor_pid:  # the launcher says nothing when it ends
            settings = msgspec.structs.replace(settings, supervisor_pid=os.getppid())
    priority = join(settings.home, settings.batch_share)
    return run(entry, settings, lambda: load(entry, settings), priority)


def run(
    entry: ModelEntry, settings: Settings, make: Callable[[], Engine], priority: Priority | None = None
) -> int:
    """Be the worker of an engine until SIGTERM or SIGINT. Returns the exit code."""
    threading.excepthook = _end_process
    worker = EngineWorker(entry, settings, make, connect(settings.redis), priority)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.drain)
    signal.signal(LEAVE, worker.leave)
    worker.register_birth()  # before the heartbeat, whose first word would look like an older worker
    heartbeat = Heartbeat(worker, connect(settings.redis))
    heartbeat.start()
    try:
        worker.run()
    finally:
        heartbeat.stop()
        worker.stop()
    return 0


def follow(entry: ModelEntry, settings: Settings, place: ranks.Place) -> int:
    """Be another rank of a model, for as long as rank 0 is its worker. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all ranks; rank 0 says when it is time
    if entry.engine != "llm":
        raise ranks.RanksError(f"{entry.id}: only language models can be divided among several ranks.")
    link = ranks.Link(place)
    path, entry = _prepare(entry, settings)
    try:
        importlib.import_module("workers.engines.llm").join(entry, path, link)
    finally:
        leave_thread()
    return 0


def load(entry: ModelEntry, settings: Settings) -> Engine:
    """The warm engine of a model, its files fetched first if need be. For the engine thread."""
    if entry.engine == "echo":
        return importlib.import_module("workers.engines.echo").load(entry, settings.models_dir)
    path, entry = _prepare(entry, settings)
    engine = importlib.import_module(f"workers.engines.{entry.engine}")
    followers = _followers(entry)
    return engine.load(entry, path, followers) if followers else engine.load(entry, path)


def _prepare(entry: ModelEntry, settings: Settings) -> tuple[Path, ModelEntry]:
    """Where the files are, and the entry as they say."""
    path = weights.ensure(entry, settings.models_dir)
    entry = weights.settle(entry, settings.models_dir)
    if not entry.tasks:
        raise weights.WeightsError(kinds.no_engine(entry.id, entry.engine))
    memory.preload_blas()
    memory.set_limits(WITH_MLX)
    return path, entry


def _followers(entry: ModelEntry) -> ranks.Followers | None:
    """The other ranks: those that were launched with this one, or that it has to launch."""
    started = []
    if entry.hosts and not ranks.place():
        started = ranks.launch(entry.hosts, [sys.executable, "-P", "-m", "cli", "worker", entry.id])
    place = ranks.place()
    return ranks.Followers(place, started) if place else None


def _end_process(failure: threading.ExceptHookArgs) -> None:
    """A worker that has lost one of its threads would take jobs and never answer: end it."""
    log.critical("thread %s failed", failure.thread, exc_info=failure.exc_value)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(70)
