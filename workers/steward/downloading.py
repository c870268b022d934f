"""Downloading a model. The work is done by a process that can be ended at any moment (`workers.fetching`)."""

import threading
import time
from collections import deque
from typing import Any

import msgspec

from shared import catalog, disk
from shared.catalog import Catalog
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.management.download import Request
from shared.manifest import ModelEntry
from shared.settings import Settings
from workers.fetching import Fetching, News

AT_ONCE = 3  # downloads; more wait for one of them to end
EVERY = 0.5  # seconds between two words on how far it is
AGAIN = 5.0  # seconds after which it is said again that it waits
WINDOW = 5.0  # seconds over which the speed is measured
STATES = {"wait": "waiting for another process", "download": "downloading", "convert": "converting"}


class Downloads:
    """Makes the errands, and counts those under way."""

    def __init__(self, models: Catalog, settings: Settings) -> None:
        self._models = models
        self._settings = settings
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def begin(self, spec: JobSpec) -> "Download":
        entry = catalog.target(self._models.manifest, msgspec.convert(spec.params, Request))
        return Download(entry, self._settings, self._turns)


class Download:
    """An errand. One that is aborted leaves what has come, for the next one to go on with."""

    def __init__(self, entry: ModelEntry, settings: Settings, turns: threading.BoundedSemaphore) -> None:
        self._entry = entry
        self._models_dir = settings.models_dir
        self._turns = turns
        self._fetching: Fetching | None = None
        self._samples: deque[tuple[float, int]] = deque()
        self._said: Any = None
        self._spoke = 0.0

    def advance(self) -> Delta | Done | None:
        if self._fetching is None:
            if not self._turns.acquire(blocking=False):
                return self._tell(News("turn"))
            self._fetching = Fetching(self._entry, self._models_dir)
        try:
            ended = self._fetching.ended()
        except Exception:
            self._turns.release()
            raise
        if not ended:
            return self._tell(self._fetching.news)
        self._turns.release()
        return self._done()

    def abort(self) -> None:
        if self._fetching:
            self._fetching.kill()
            self._turns.release()

    def _tell(self, news: News) -> Delta | None:
        now = time.monotonic()
        speed = self._speed(now, news)
        since = now - self._spoke
        told = (news.phase, news.done)
        if since < EVERY or (told == self._said and (news.phase == "download" or since < AGAIN)):
            return None  # a download from which nothing comes runs into its time limit
        self._said, self._spoke = told, now
        state = STATES.get(news.phase, "waiting for other downloads" if news.phase == "turn" else news.phase)
        data: dict[str, Any] = {"state": state, "bytes": news.done, "total": news.total}
        data["speed"] = speed
        return Delta(progress=news.done / news.total if news.total else 0.0, data={"download": data})

    def _speed(self, now: float, news: News) -> int:
        """Bytes a second."""
        if news.phase != "download":
            return 0
        self._samples.append((now, news.done))
        while now - self._samples[0][0] > WINDOW and len(self._samples) > 2:
            self._samples.popleft()
        then, done = self._samples[0]
        return round((news.done - done) / (now - then)) if now > then else 0

    def _done(self) -> Done:
        entry = self._entry
        result = {"id": entry.id, "object": "model", "repo_id": entry.repo_id, "status": "downloaded"}
        facts = disk.describe(entry, self._models_dir)
        return Done(result | {"path": facts["path"], "size_bytes": facts["size_bytes"]}, {})
