"""Removing a model's files."""

import re
from typing import Any

import msgspec

from shared.errors import BadRequest
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.validation import validate as convert

ENDPOINT = "/v1/models/{model}"
RESUMES = True

NAME = re.compile(r"[A-Za-z0-9][\w.:-]*(/[A-Za-z0-9][\w.:-]*)*", re.ASCII)  # an id, an alias or a repo


class Request(msgspec.Struct, kw_only=True):
    model: str


def validate(raw: Any) -> Request:
    request = convert(raw, Request, {})
    if not NAME.fullmatch(request.model) or ".." in request.model:
        raise BadRequest("This is no model's name: expected an id, or 'org/name'.", param="model")
    return request


def body(spec: JobSpec, said: list[Delta], done: Done) -> dict:
    return done.result
