"""The id by which a client and the log name the same request."""

import re
import uuid

from sanic import Request, Sanic
from sanic.response import BaseHTTPResponse

SANE = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


def register(app: Sanic) -> None:
    app.register_middleware(stamp, "response")


def request_id(request: Request) -> str:
    """The client's `x-request-id` if it is sane, else a new one."""
    if not (known := getattr(request.ctx, "request_id", None)):
        offered = request.headers.get("x-request-id", "")
        known = offered if SANE.fullmatch(offered) else f"req-{uuid.uuid4().hex}"
        request.ctx.request_id = known
    return known


def stamp(request: Request, response: BaseHTTPResponse) -> None:
    response.headers["x-request-id"] = request_id(request)
    if job_id := getattr(request.ctx, "job_id", None):
        response.headers["x-job-id"] = job_id
