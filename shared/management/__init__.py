"""What can be asked about models themselves: one file a task, found by listing this folder, as in
`shared.tasks`. The steward runs these jobs. Every file has

ENDPOINT      the path of the endpoint, such as "/v1/models/load"
Request       the msgspec struct of a request
validate(raw) -> Request                 raises BadRequest naming the field
RESUMES       whether a job that has spoken can go on in another steward
body(spec, said, done) -> dict           the answer of the synchronous call
"""

import importlib
import pkgutil
import time
from functools import cache
from types import ModuleType

import msgspec

from shared.jobs import JobSpec, new_job_id

STEWARD = "steward"  # the queue of these jobs, and what their worker goes by
TIMEOUT = 600.0  # seconds that the steward may take from one word to the next


@cache
def tasks() -> dict[str, ModuleType]:
    """Task name -> its module."""
    return {
        name: importlib.import_module(f"{__name__}.{name}")
        for _, name, _ in pkgutil.iter_modules(__path__)
    }


def make_spec(task: str, request: msgspec.Struct, model: str) -> JobSpec:
    """A job for the steward."""
    return JobSpec(
        id=new_job_id(),
        task=task,
        model=model,
        params=msgspec.to_builtins(request),
        created=time.time(),
        timeout=TIMEOUT,
        detached=True,
        runs_on=STEWARD,
    )
