"""JobSpec: what the API asks of a worker."""

import secrets
import time
from typing import Any, Literal, get_args

import msgspec

Lane = Literal["interactive", "batch"]
LANES: tuple[Lane, ...] = get_args(Lane)


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as JSON in the arguments of an RQ job.

    `params` is the task's validated request; `blob` the key of uploaded bytes, `path` a file of the
    API's machine; `created` is Unix seconds; `timeout` counts from the moment a worker takes the job.
    """

    id: str
    task: str
    model: str
    params: dict[str, Any]
    created: float
    timeout: float
    lane: Lane = "interactive"
    detached: bool = False  # nobody is waiting on the connection: a client that leaves cancels nothing
    blob: str | None = None
    path: str | None = None  # a file that stays where it is, below an allowed folder
    filename: str | None = None
    runs_on: str = ""  # whose queue it waits in, where that is not the model's own

    @property
    def server(self) -> str:
        """Whose workers run it: the model's, or the steward."""
        return self.runs_on or self.model


def new_job_id() -> str:
    """Sortable by time, unguessable, safe in a URL and a Redis key."""
    return f"job-{time.time_ns() // 1_000_000:011x}{secrets.token_hex(8)}"


def to_builtins(spec: JobSpec) -> dict[str, Any]:
    return msgspec.to_builtins(spec)


def from_builtins(data: Any) -> JobSpec:
    return msgspec.convert(data, JobSpec)


def run(spec: dict) -> None:
    """The function that every OminiX job names. Only an OminiX worker can run it."""
    raise RuntimeError("OminiX jobs are run by `ominix worker`, not by `rq worker`")
