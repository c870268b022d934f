"""Ending a model's workers, when they have answered what they run. The files stay."""

from typing import Any

import msgspec

from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.validation import validate as convert

ENDPOINT = "/v1/models/unload"
RESUMES = True


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`if_idle`: only if nothing waits for it or runs when its turn comes."""

    model: str
    if_idle: bool = False


def validate(raw: Any) -> Request:
    return convert(raw, Request, {})


def body(spec: JobSpec, said: list[Delta], done: Done) -> dict:
    return done.result
