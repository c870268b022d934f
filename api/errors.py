"""The one place where errors meet HTTP."""

import errno
import logging
import math
import re
import traceback

import msgspec
import orjson
from redis import exceptions as redis_errors
from sanic import Request, Sanic
from sanic import exceptions as sanic_errors
from sanic.response import HTTPResponse

from api.identity import request_id
from shared.errors import (
    BadRequest,
    EngineError,
    InsufficientStorage,
    MethodNotAllowed,
    NotFound,
    OminixError,
    PayloadTooLarge,
    Unavailable,
)
from shared.validation import from_msgspec

log = logging.getLogger("ominix.api")

REDIS_GONE = (
    redis_errors.ConnectionError,  # also busy loading, authentication
    redis_errors.TimeoutError,
    redis_errors.OutOfMemoryError,
    redis_errors.ReadOnlyError,
    redis_errors.TryAgainError,
)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PARAMETER = re.compile(r"<(\w+)(?::\w+)?>")


def register(app: Sanic) -> None:
    app.exception(Exception)(answer)


def answer(request: Request, exception: Exception) -> HTTPResponse:
    """The response for any exception, in OpenAI's shape."""
    error = translate(request, exception)
    headers = dict(getattr(exception, "headers", None) or {})
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 409:
        headers["x-should-retry"] = "false"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return HTTPResponse(orjson.dumps(error.body()), error.status, headers, "application/json")


def translate(request: Request, exception: Exception) -> OminixError:
    """Any exception as an error of the tree; what nobody expected is logged here, once."""
    match exception:
        case OminixError():
            return exception
        case msgspec.ValidationError():
            return from_msgspec(exception)
        case sanic_errors.SanicException() if exception.status_code < 500:
            return _from_sanic(request, exception)
        case sanic_errors.ServiceUnavailable():
            return Unavailable(f"{exception}.", code="overloaded", retry_after=1)
        case OSError(errno=number) if number in DISK_FULL:
            return InsufficientStorage("The server's disk is full; nothing of this request was kept.")
        case _ if isinstance(exception, REDIS_GONE):
            return Unavailable("The queue cannot be reached. Try again.", code="overloaded", retry_after=2)
        case _:
            return _unexpected(request, exception)


def shutting_down(job_id: str | None) -> OminixError:
    """What a client is told that would wait longer than the server lives. The job goes on."""
    where = f" Job {job_id} goes on: GET /v1/jobs/{job_id}/result." if job_id else ""
    return Unavailable(f"The server is shutting down.{where}", code="overloaded", retry_after=2)


def _from_sanic(request: Request, exception: sanic_errors.SanicException) -> OminixError:
    match exception:
        case sanic_errors.NotFound():
            return NotFound(
                f"There is no {request.method} {request.path[:200]}. Endpoints: {_endpoints(request.app)}."
            )
        case sanic_errors.MethodNotAllowed():
            allowed = exception.headers.get("Allow", "")
            return MethodNotAllowed(f"{request.method} is not allowed here; allowed: {allowed}.")
        case sanic_errors.PayloadTooLarge():
            return PayloadTooLarge(f"{exception}.")
    error = BadRequest(f"{exception}.")
    error.status = exception.status_code
    return error


def _endpoints(app: Sanic) -> str:
    return ", ".join(sorted({PARAMETER.sub(r"{\1}", f"/{route.path}") for route in app.router.routes}))


def _unexpected(request: Request, exception: Exception) -> OminixError:
    """The frames tell where; the exception's own words may quote a prompt, so only DEBUG has them."""
    frames = "".join(traceback.format_tb(exception.__traceback__))
    log.error("request %s: %s\n%s", request_id(request), type(exception).__name__, frames)
    log.debug("request %s: %s", request_id(request), exception)
    return EngineError(f"Something went wrong in the server (request {request_id(request)}).")
