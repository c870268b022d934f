"""A batch of recordings: a bounded number waits in the server's line until each has its result."""

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cli.transcribing import targets
from cli.transcribing.recording import Recording, Tally
from cli.transcribing.server import Server
from shared.errors import OminixError

AT_ONCE = 32  # files in the server's spool
LOOK = 0.5  # seconds between two looks at the jobs
TURNS = 100  # older jobs of one file that are passed over
ENDED = ("completed", "failed", "cancelled")


class Display(Protocol):
    def ended(self, recording: Recording) -> None: ...


class Batch:
    """Gives each recording a job with these `fields`; `force` passes over jobs that were completed
    before this run."""

    def __init__(
        self, server: Server, fields: Mapping[str, Any], force: bool, tally: Tally, display: Display
    ) -> None:
        self._server = server
        self._fields = fields
        self._force = force
        self._tally = tally
        self._display = display
        self._room = asyncio.Semaphore(AT_ONCE)
        self._refusal: OminixError | None = None

    async def run(self, recordings: Sequence[Recording]) -> None:
        """Until each has its result or its error. Raises OminixError for fields that the server
        refuses whatever the file."""
        async with asyncio.TaskGroup() as tasks:
            submitting = tasks.create_task(self._submit_all(recordings))
            tasks.create_task(self._follow(submitting))
        if self._refusal:
            raise self._refusal

    async def _submit_all(self, recordings: Sequence[Recording]) -> None:
        for recording in recordings:
            await self._room.acquire()
            self._tally.open[recording] = None
            try:
                recording.job = await self._submit(recording.source)
            except (OminixError, OSError) as error:
                if self._concerns_all(error):
                    del self._tally.open[recording]
                    self._refusal = error
                    return
                self._end(recording, str(error))

    async def _submit(self, source: Path) -> dict:
        """The file's job: the one that an earlier run began, or a new one where that has failed."""
        for turn in range(TURNS):
            job = await self._server.submit(source, self._fields, key_of(source, self._fields, turn))
            if not self._is_spent(job):
                break
        return job

    def _concerns_all(self, error: Exception) -> bool:
        names = {name.removesuffix("[]") for name in self._fields}
        return isinstance(error, OminixError) and (error.param or "").removesuffix("[]") in names

    def _is_spent(self, job: dict) -> bool:
        bad = ("failed", "cancelled", "completed") if self._force else ("failed", "cancelled")
        return job["status"] in bad and job["created_at"] < int(self._tally.begun)

    async def _follow(self, submitting: asyncio.Task) -> None:
        while self._tally.open or not submitting.done():
            await asyncio.sleep(LOOK)
            await self._look()

    async def _look(self) -> None:
        """Ask for each job in turn, up to the first that waits: the line moves in order, so that
        those behind it wait as well."""
        submitted = [recording for recording in self._tally.open if recording.job]
        for index, recording in enumerate(submitted):
            try:
                recording.job = await self._server.job(recording.job["id"])
                if recording.job["status"] in ENDED:
                    await self._settle(recording)
            except (OminixError, OSError) as error:
                self._end(recording, str(error))
            if recording.is_waiting:
                _number(submitted[index:], recording.job["position"])
                return

    async def _settle(self, recording: Recording) -> None:
        job = recording.job
        if job["status"] != "completed":
            said = (job["error"] or {}).get("message")
            return self._end(recording, said or f"The job was {job['status']}.")
        targets.write(recording.target, await self._server.result(job["id"]))
        if (job["finished_at"] or 0) >= int(self._tally.begun):
            self._tally.audio += (job["usage"] or {}).get("seconds") or 0
        self._end(recording)

    def _end(self, recording: Recording, error: str | None = None) -> None:
        del self._tally.open[recording]
        recording.error = error
        if error:
            self._tally.failed.append(recording)
        else:
            self._tally.done += 1
        self._room.release()
        self._display.ended(recording)


def key_of(source: Path, fields: Mapping[str, Any], turn: int) -> str:
    """The Idempotency-Key of a file as it is now and what is asked of it: a repeated run finds the job
    of the first. Raises OSError."""
    facts = source.stat()
    told = [os.fsencode(source).hex(), facts.st_size, facts.st_mtime_ns, dict(fields), turn]
    return f"transcribe-{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}"


def _number(waiting: Sequence[Recording], first: int | None) -> None:
    for offset, recording in enumerate(waiting):
        recording.place = None if first is None else first + offset
