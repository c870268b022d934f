"""Echo: an engine without a model, for trying, testing and measuring everything around one.

A chat answer repeats the last user message, a completion its prompt, one word a token, within
`max_tokens` and before any stop string; a script makes it say something else, think, or call the
request's tools. A transcription says the size and the SHA-256 of the file, one word a passage, and goes
on where an earlier attempt stopped. One step advances every choice of every job by one word and takes
`step_ms`, however many there are.

The manifest's `options` and each request script it (`script.py` has the fields): a chat or completion
request in its metadata, `{"metadata": {"echo": "{\\"tokens\\": 64, \\"fail_at\\": 3}"}}`, a transcription
in its prompt, `echo:{"tokens": 64}`. A script can end the process: don't serve this engine to strangers.
"""

import os
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from shared.events import Delta, Event
from shared.jobs import JobSpec
from shared.manifest import ModelEntry
from workers.engine import Output, Prepared
from workers.engines.echo import jobs
from workers.engines.echo.jobs import Job
from workers.engines.echo.pace import Pace, hang
from workers.engines.echo.script import Fault, Options
from workers.transcript import log_heard


def load(entry: ModelEntry, path: Path | None = None) -> "EchoEngine":
    """Raises msgspec.ValidationError for options that it does not have."""
    options = msgspec.convert(entry.options, Options)
    time.sleep(options.load_ms / 1000)
    return EchoEngine(options, entry.max_concurrency, entry.context_length)


class EchoEngine:
    """Serves chat, completion and transcription, `slots` jobs at once."""

    def __init__(self, options: Options, slots: int = 8, context_length: int | None = None) -> None:
        self.slots = slots
        self._options = options
        self._context_length = context_length
        self._pace = Pace(options.step_ms / 1000)
        self._ballast = [b"\1" * (options.ballast_mb << 20)]  # nought would not be in memory
        self._running: dict[str, Job] = {}
        self._voices: dict[str, jobs.Voice] = {}

    def prepare(self, spec: JobSpec, file: str | None, said: Sequence[Delta] = ()) -> Prepared:
        job = jobs.prepare(spec, file, said, self._options, self._context_length)
        return Prepared(spec, job, job.voice.steps)

    def has_room(self, prepared: Prepared) -> bool:
        return len(self._running) < self.slots

    def add(self, prepared: Prepared) -> None:
        job: Job = prepared.work
        if job.script.raise_in == "add":
            raise Fault("the script raises in add")
        if not self._running:
            self._pace.start()
        if job.script.leak_mb:
            self._ballast.append(b"\1" * (job.script.leak_mb << 20))
        self._voices[prepared.spec.id] = job.voice
        self._running[prepared.spec.id] = job

    def step(self) -> list[tuple[str, Output]]:
        if not self._running:
            return []
        self._pace.wait()
        outputs = [(job_id, _advance(job_id, job)) for job_id, job in self._running.items()]
        for job_id, output in outputs:
            if output.last or output.error:
                del self._running[job_id]
        return outputs

    def abort(self, job_id: str) -> None:
        job = self._running.pop(job_id, None)
        if job and job.script.raise_in == "abort":
            raise Fault("the script raises in abort")

    def render(self, job_id: str, outputs: Iterable[Output]) -> list[Event]:
        voice = self._voices.get(job_id)
        return voice.render(outputs) if voice else []

    def forget(self, job_id: str) -> None:
        self._voices.pop(job_id, None)

    def close(self) -> None:
        self._running.clear()
        self._ballast.clear()


def _advance(job_id: str, job: Job) -> Output:
    script, step = job.script, job.said + 1
    if script.raise_in == "step":
        raise Fault("the script raises in step")
    if script.crash_at == step:
        os.kill(os.getpid(), signal.SIGKILL)
    if script.hang_at == step:
        hang(script.hang_ms / 1000, script.hang == "gil")
    if script.fail_at == step:
        return Output(error=Fault(f"the script fails at step {step}"))
    if job.hears:
        log_heard(job_id, job.said)
    return job.next()
