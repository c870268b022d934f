"""The audio of jobs: where it lies on this host, or fetched for as long as the job lasts.

A worker that reaches Redis over a network never takes a file for the job's that only has the same path: it
uses a path below its own OMINIX_AUDIO_FOLDERS, and fetches any other like an upload.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from redis import Redis
from redis.exceptions import ResponseError

from shared import keys
from shared.blobs import BlobStore
from shared.errors import EngineError, Forbidden, NotFound
from shared.jobs import JobSpec
from shared.paths import allowed
from shared.settings import Settings
from workers.apis import PIECE, Abandoned, Apis, Unreachable, copy
from workers.flight import Flight

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds after the first, second, … failure in a row
NAP = 0.05


class Files:
    """`place` and `release` are called from several threads, `waits` by the intake."""

    def __init__(self, settings: Settings, blobs: BlobStore, redis: Redis) -> None:
        self._folders = settings.audio_folder_paths
        self._at_home = settings.redis.startswith("unix:")  # with Redis, and so with the API
        self._stored = type(blobs) is not BlobStore  # where all hosts reach it
        self._folder = settings.home / "fetched"
        self._blobs = blobs
        self._redis = redis
        self._apis = Apis(redis)
        self._fetched: dict[str, Path] = {}
        self._failures = 0
        self._due = 0.0
        self.stuck = False  # a file could not be had: nothing is taken that another worker may run
        self._clear()

    def place(self, flight: Flight) -> str | None:
        """Where the bytes of a job are. Raises OminixError for what is not (any more) there or allowed,
        Unreachable, and Abandoned."""
        spec = flight.spec
        if spec.path:
            return self._place_path(flight, spec.path)
        if not spec.blob:
            return None
        if found := self._blobs.local(spec.blob):
            return str(found)
        if self._at_home and not self._stored:
            raise _gone(spec)
        return self._fetch(flight, spec.blob)

    def release(self, job_id: str) -> None:
        """Remove what was fetched for a job."""
        if path := self._fetched.pop(job_id, None):
            path.unlink(missing_ok=True)

    def delete(self, key: str | None) -> None:
        """Remove the blob of a job that has ended, or leave word for the API that has it."""
        if not self._blobs.delete(key):
            with suppress(ResponseError):  # a full Redis; blobs that nobody needs are removed after a day
                self._redis.zadd(keys.SPENT_BLOBS, {key: time.time()})

    def close(self) -> None:
        self._apis.close()

    def waits(self) -> bool:
        """Whether to take nothing now; sleeps for a moment then, and looks whether files can be had again."""
        if not self.stuck:
            return False
        if time.monotonic() < self._due:
            time.sleep(NAP)
        elif self._stored or self._apis.answer():
            self.stuck = False
        else:
            self._due = time.monotonic() + PAUSES[0]
        return self.stuck

    def _place_path(self, flight: Flight, path: str) -> str:
        try:
            return str(allowed(path, self._folders))
        except (Forbidden, NotFound):
            if self._at_home:
                raise
        return self._fetch(flight, flight.id)

    def _fetch(self, flight: Flight, key: str) -> str:
        try:
            with self._new_file() as (path, target):
                self._copy(flight, key, target)
        except (OSError, Unreachable) as error:
            self._due = time.monotonic() + PAUSES[min(self._failures, len(PAUSES) - 1)]
            self._failures += 1
            self.stuck = True
            raise Unreachable(str(error)) from error
        self._failures = 0
        self._fetched[flight.id] = path
        if flight.over:  # it has ended since, and may have been released before
            self.release(flight.id)
            raise Abandoned
        return str(path)

    def _copy(self, flight: Flight, key: str, target: BinaryIO) -> None:
        try:
            if self._stored and flight.spec.blob:
                with self._opened(key) as source:
                    copy(iter(lambda: source.read(PIECE), b""), target, flight)
            else:
                self._apis.fetch(key, target, flight)
        except (FileNotFoundError, NotFound):
            raise _gone(flight.spec) from None

    @contextmanager
    def _opened(self, key: str) -> Iterator[BinaryIO]:
        """The blob in the store of all hosts; whatever its library raises is Unreachable."""
        try:
            with self._blobs.open(key) as source:
                yield source
        except (OSError, Abandoned):
            raise
        except Exception as error:
            raise Unreachable(f"the store of OMINIX_BLOBS_URL fails ({type(error).__name__})") from error

    @contextmanager
    def _new_file(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A private file, which is removed again if it does not get whole."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
                yield path, target
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _clear(self) -> None:
        """Remove what workers that were killed have left."""
        for path in self._folder.glob("[0-9]*-*"):
            pid = path.name.partition("-")[0]
            if pid.isdigit() and not _lives(int(pid)):
                path.unlink(missing_ok=True)


def _gone(spec: JobSpec) -> Exception:
    if spec.path:
        return NotFound("There is no file at this 'file_path'.", param="file_path")
    return EngineError(f"The audio of job {spec.id} is no longer there. Please send it again.")


def _lives(pid: int) -> bool:
    """Whether another process has this id; a file of our own id is an earlier process's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
