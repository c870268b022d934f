"""The seam between the worker and the models: it imports neither."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from shared.events import Delta, Event
from shared.jobs import JobSpec


class Prepared(msgspec.Struct):
    """A job that is ready to run: `work` is what the engine's own `prepare` made of it."""

    spec: JobSpec
    work: Any
    size: int = 0  # tokens of cache, or whatever the engine's has_room counts


class Output(msgspec.Struct):
    """What one step made for one job, in the engine's own terms, for `render`.

    `last` is true when the engine has nothing more to add; `error` ends the job as failed. One without
    anything says that the job is well: of a task that resumes, the time limit begins again.
    """

    payload: Any = None
    last: bool = False
    error: Exception | None = None


@runtime_checkable
class Engine(Protocol):
    """A loaded model that serves several requests at once, one step at a time.

    `prepare` and `render` may run in any thread and never touch MLX; everything else runs in the
    one engine thread. An exception from `add`, or an Output with `error`, costs that job alone.
    """

    slots: int  # how many jobs run at once

    def prepare(self, spec: JobSpec, file: str | None, said: Sequence[Delta] = ()) -> Prepared:
        """Validate, tokenise, decode. `file` is the path of the job's bytes; `said` what an earlier
        attempt has told its readers, for a task that resumes. Raises OminixError."""

    def has_room(self, prepared: Prepared) -> bool: ...

    def add(self, prepared: Prepared) -> None: ...

    def step(self) -> list[tuple[str, Output]]:
        """Advance every request once; (job id, Output) for those with news. [] when idle."""

    def abort(self, job_id: str) -> None:
        """Forget a job, running or not known (any more)."""

    def render(self, job_id: str, outputs: Iterable[Output]) -> list[Event]:
        """Turn a job's outputs, oldest first, into events. The last event may be Done or Failed
        before the engine said `last` (a stop string): the worker then aborts the job."""

    def forget(self, job_id: str) -> None:
        """Drop what `render` keeps of a job."""

    def close(self) -> None: ...
