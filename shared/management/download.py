"""Fetching a model from the Hugging Face hub."""

import re
from typing import Any

import msgspec

from shared.errors import BadRequest
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.manifest import HUB
from shared.validation import validate as convert

ENDPOINT = "/v1/models/download"
RESUMES = True

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)  # as huggingface_hub has it


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A repo of the hub, "org/name", at a branch, tag or commit."""

    repo_id: str
    revision: str | None = None

    @property
    def source(self) -> str:
        """As a manifest has it."""
        return f"hf:{self.repo_id}" + (f"@{self.revision}" if self.revision else "")

    @property
    def id(self) -> str:
        """What the model will be called."""
        return self.repo_id.split("/")[1]


def validate(raw: Any) -> Request:
    request = convert(raw, Request, {})
    if not REPO.fullmatch(request.repo_id) or ".." in request.repo_id or "--" in request.repo_id:
        raise BadRequest("'repo_id' must be a repo of the hub, such as 'org/name'.", param="repo_id")
    if request.revision == "" or not HUB.fullmatch(request.source) or ".." in request.source:
        raise BadRequest("'revision' must be a branch, a tag or a commit.", param="revision")
    return request


def body(spec: JobSpec, said: list[Delta], done: Done) -> dict:
    return done.result
