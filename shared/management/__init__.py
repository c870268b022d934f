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
from functools import cache
from types import ModuleType

STEWARD = "steward"  # the queue of these jobs, and what their worker goes by


@cache
def tasks() -> dict[str, ModuleType]:
    """Task name -> its module."""
    return {
        name: importlib.import_module(f"{__name__}.{name}")
        for _, name, _ in pkgutil.iter_modules(__path__)
    }
