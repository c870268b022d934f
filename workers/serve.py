"""`ominix worker`: load a model and serve it until told to stop."""

import importlib
import logging
import os
import signal
import sys
import threading

from shared.connections import connect
from shared.manifest import Manifest, ModelEntry
from shared.settings import Settings
from workers import memory, weights
from workers.engine import Engine
from workers.heartbeat import Heartbeat
from workers.worker import EngineWorker

log = logging.getLogger("ominix.worker")


def main(model: str, settings: Settings, manifest: Manifest) -> int:
    """Serve one model until SIGTERM or SIGINT. Returns the exit code."""
    entry = manifest.resolve(model)
    threading.excepthook = _end_process
    worker = EngineWorker(entry, settings, lambda: load(entry, settings), connect(settings.redis))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.drain)
    worker.register_birth()  # before the heartbeat, whose first word would look like an older worker
    heartbeat = Heartbeat(worker, connect(settings.redis))
    heartbeat.start()
    try:
        worker.run()
    finally:
        heartbeat.stop()
        worker.stop()
    return 0


def load(entry: ModelEntry, settings: Settings) -> Engine:
    """The warm engine of a model, its files fetched first if need be. For the engine thread."""
    if entry.engine == "echo":
        return importlib.import_module("workers.engines.echo").load(entry, settings.models_dir)
    path = weights.ensure(entry, settings.models_dir)
    entry = weights.settle(entry, settings.models_dir)
    memory.preload_blas()
    return importlib.import_module(f"workers.engines.{entry.engine}").load(entry, path)


def _end_process(failure: threading.ExceptHookArgs) -> None:
    """A worker that has lost one of its threads would take jobs and never answer: end it."""
    log.critical("thread %s failed", failure.thread, exc_info=failure.exc_value)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(70)
