"""What browsers let pages send and read."""

from sanic import Request, Sanic
from sanic.response import BaseHTTPResponse, HTTPResponse, empty

METHODS = "GET, POST, DELETE, OPTIONS"
HEADERS = (
    "Content-Type, Authorization, Idempotency-Key, Prefer, Last-Event-ID, X-Request-Id, "
    "OpenAI-Organization, OpenAI-Project, OpenAI-Beta"
)
EXPOSED = "x-request-id, x-job-id, retry-after, location"
SDK_HEADER = "x-stainless-"  # what OpenAI's clients say of themselves
MAX_AGE = "600"


def register(app: Sanic) -> None:
    app.register_middleware(preflight, "request")
    app.register_middleware(allow, "response")


def preflight(request: Request) -> HTTPResponse | None:
    """The answer to OPTIONS on any path."""
    if request.method != "OPTIONS":
        return None
    asked = request.headers.get("access-control-request-headers", "").split(",")
    theirs = [name.strip() for name in asked if name.strip().lower().startswith(SDK_HEADER)]
    headers = {
        "access-control-allow-methods": METHODS,
        "access-control-allow-headers": ", ".join([HEADERS, *theirs]),
        "access-control-max-age": MAX_AGE,
    }
    return empty(headers=headers)


def allow(request: Request, response: BaseHTTPResponse) -> None:
    origins = request.app.ctx.settings.cors_origins
    response.headers["access-control-expose-headers"] = EXPOSED
    if origins == "*":
        response.headers["access-control-allow-origin"] = "*"
        return
    response.headers["vary"] = "Origin"
    origin = request.headers.get("origin")
    if origin in [known.strip() for known in origins.split(",")]:
        response.headers["access-control-allow-origin"] = origin
