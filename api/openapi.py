"""The OpenAPI 3.1 document, from the request structs and what the routes say of themselves."""

from importlib.metadata import version
from types import ModuleType
from typing import Any

import msgspec
import orjson

from shared import management
from shared.tasks import tasks

REF = "#/components/schemas/{name}"
ERRORS = {
    "400": "A field is wrong; `param` names it",
    "401": "The API key is missing or not known",
    "403": "Not for this origin, or not for this path",
    "404": "No such model",
    "409": "Something else has it; trying again would not help",
    "413": "The body is too large",
    "429": "Too many are waiting; see Retry-After",
    "500": "The engine or its worker failed",
    "503": "No worker serves this model now; see Retry-After",
    "504": "The job ran past its limit",
    "507": "The disk is full",
}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
}
STRING = {"type": "string"}
PLAIN = ("text/plain", "application/x-subrip", "text/vtt")  # other formats of a transcript
HEADERS = (
    ("Prefer", "`respond-async`: answer 202 with a job at once"),
    ("Idempotency-Key", "the same key gives the same job"),
)


def document(route_modules: list[ModuleType]) -> dict[str, Any]:
    """The document of every task's endpoint and of every route module that has PATHS."""
    paths: dict[str, Any] = {module.ENDPOINT: {"post": _operation(name)} for name, module in tasks().items()}
    for module in route_modules:
        paths |= getattr(module, "PATHS", {})
    return {
        "openapi": "3.1.0",
        "info": {"title": "OminiX", "version": version("ominix")},
        "paths": paths,
        "components": {
            "schemas": _schemas() | {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def error_responses(*statuses: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REF.format(name="Error")}}}
    return {status: {"description": ERRORS[status], "content": content} for status in statuses}


def json_body(task: str) -> dict[str, Any]:
    """The body of a request to a task of `shared.management`."""
    schema = {"$ref": REF.format(name=_request_name(task))}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _schemas() -> dict[str, Any]:
    """The components of all requests; a task's `Request` is named after the task."""
    every = tasks() | management.tasks()
    requests = [module.Request for module in every.values()]
    _, components = msgspec.json.schema_components(requests, ref_template=REF)
    text = orjson.dumps(components)
    for name, module in every.items():  # two of a name are told apart by their modules
        text = text.replace(f"{module.__name__}.Request".encode(), _request_name(name).encode())
    return orjson.loads(text)


def _request_name(task: str) -> str:
    return f"{task.title().replace('_', '')}Request"


def _operation(task: str) -> dict[str, Any]:
    module = tasks()[task]
    return {
        "summary": module.__doc__.strip().splitlines()[0],
        "parameters": [_header(*header) for header in HEADERS],
        "requestBody": {"required": True, "content": _bodies(task)},
        "responses": {
            "200": {
                "description": "The answer, or with `stream` its events",
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "text/event-stream": {"schema": STRING},
                    **(dict.fromkeys(PLAIN, {"schema": STRING}) if module.FILE else {}),
                },
            },
            "202": {"description": "A job object, with `Prefer: respond-async`"},
            **error_responses(*ERRORS),
        },
    }


def _bodies(task: str) -> dict[str, Any]:
    """Media type -> schema of a task's request."""
    schema = {"$ref": REF.format(name=_request_name(task))}
    if not tasks()[task].FILE:
        return {"application/json": {"schema": schema}}
    return {
        media: {"schema": {"allOf": [schema, _recording(file)]}}
        for media, file in (
            ("multipart/form-data", STRING | {"format": "binary"}),
            ("application/json", STRING | {"contentEncoding": "base64"}),
        )
    }


def _recording(file: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"file": file, "file_path": STRING, "filename": STRING},
        "oneOf": [{"required": ["file"]}, {"required": ["file_path"]}],
    }


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}
