"""What can be asked: one file a task, found by listing this folder. Every file has

ENDPOINT      the path of the OpenAI endpoint, such as "/v1/chat/completions"
FILE          whether a request carries an uploaded file
Request       the msgspec struct of a request; it has at least `model` and `stream`
validate(raw, strict=True) -> Request            raises BadRequest naming the field
lane(request, detached) -> Lane                  `detached`: nobody waits on a connection
RESUMES       whether a job that has spoken can go on in another worker
body(spec, said, done) -> dict | Plain           the answer of the synchronous call; `said` are the
                                                 deltas with data
Stream(spec)  .delta(Delta) and .done(Done) -> list of JSON objects, the frames of a streamed answer
STREAM_END    what closes a streamed answer, such as "[DONE]", or None
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import NamedTuple

from shared import management


class Plain(NamedTuple):
    """An answer that is not JSON."""

    text: str
    content_type: str


@cache
def tasks() -> dict[str, ModuleType]:
    """Task name -> its module."""
    return {
        name: importlib.import_module(f"{__name__}.{name}")
        for _, name, _ in pkgutil.iter_modules(__path__)
    }


def named(name: str) -> ModuleType:
    """The module of a job's task, of those that manage models too."""
    return tasks().get(name) or management.tasks()[name]


@cache
def by_endpoint() -> dict[str, str]:
    """Endpoint path -> task name."""
    return {module.ENDPOINT: name for name, module in tasks().items()}
