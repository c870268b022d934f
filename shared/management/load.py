"""Starting a model's workers, or changing how many there are."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.validation import validate as convert

ENDPOINT = "/v1/models/load"
RESUMES = True

MOST = 64  # workers of one model on one machine


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`replicas` None: one, or as many as run already."""

    model: str
    replicas: Annotated[int, Meta(ge=1, le=MOST)] | None = None


def validate(raw: Any) -> Request:
    return convert(raw, Request, {})


def body(spec: JobSpec, said: list[Delta], done: Done) -> dict:
    return done.result
