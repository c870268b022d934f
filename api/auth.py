"""Who may ask: API keys, or without them only this machine and what runs on it.

Without keys any web page could reach a local server through its visitor's browser. Two headers
that a page cannot forge tell it apart: `Host` (DNS rebinding) and `Origin` (another site).
"""

import hmac
import ipaddress
from urllib.parse import urlsplit

from sanic import Request, Sanic

from shared import links
from shared.errors import Forbidden, InvalidApiKey
from shared.settings import Settings
from shared.tasks import by_endpoint

OPEN = ("/health", "/docs", "/openapi.json")  # without a key and from any page: nothing of a user's


def register(app: Sanic) -> None:
    app.register_middleware(check, "request", priority=1)


def check(request: Request) -> None:
    """Raises InvalidApiKey or Forbidden."""
    if not request.head:  # the head could not be parsed: there is nothing to check, a 400 follows
        return
    if request.path.startswith(links.PREFIX):  # a signature is asked for there instead
        return
    settings: Settings = request.app.ctx.settings
    if settings.api_keys:
        return _check_key(request, settings.api_keys.split(","))
    if is_loopback(settings.host) and not is_loopback(_hostname(request.headers.get("host", ""))):
        raise Forbidden(
            "This server answers only to localhost. Set OMINIX_API_KEYS to serve other names.",
            code="forbidden_origin",
        )
    _check_origin(request, settings)


def check_file_path(request: Request) -> None:
    """Whether a request may name a file of this machine, which other sites' pages may not. Raises
    Forbidden."""
    origin = request.headers.get("origin")
    if origin and not request.app.ctx.settings.api_keys and not is_loopback(_origin_host(origin)):
        raise Forbidden(
            "Pages of other sites may not use 'file_path'. Set OMINIX_API_KEYS to allow more.",
            param="file_path",
            code="forbidden_origin",
        )


def is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def prefers_async(request: Request) -> bool:
    """Whether the client asked for a job instead of an answer (RFC 7240)."""
    preferences = ",".join(request.headers.getall("prefer", [])).split(",")
    return any(part.split(";")[0].strip().lower() == "respond-async" for part in preferences)


def _check_key(request: Request, keys: list[str]) -> None:
    if request.path in OPEN or request.method == "OPTIONS":
        return
    scheme, _, offered = request.headers.get("authorization", "").partition(" ")
    if not offered or scheme.lower() != "bearer":
        raise InvalidApiKey("Send your API key as 'Authorization: Bearer KEY'.")
    given = offered.strip().encode(errors="replace")
    # every key is compared, so that time says nothing about which one was near
    if not any([hmac.compare_digest(given, key.strip().encode()) for key in keys if key.strip()]):
        raise InvalidApiKey("This API key is not known here.")


def _check_origin(request: Request, settings: Settings) -> None:
    origin = request.headers.get("origin")
    if origin is None or is_loopback(_origin_host(origin)) or request.method == "OPTIONS":
        return
    narrowed = settings.cors_origins != "*"
    if narrowed and origin not in [known.strip() for known in settings.cors_origins.split(",")]:
        raise Forbidden("This origin is not among OMINIX_CORS_ORIGINS.", code="forbidden_origin")
    if prefers_async(request) or not _is_inference(request):
        raise Forbidden(
            "Pages of other sites may ask for inference, not for jobs or management. "
            "Set OMINIX_API_KEYS to allow more.",
            code="forbidden_origin",
        )


def _is_inference(request: Request) -> bool:
    path = request.path.rstrip("/")
    reads_models = request.method == "GET" and path.startswith("/v1/models")
    return path in by_endpoint() or path in OPEN or reads_models


def _hostname(host: str) -> str | None:
    return _origin_host(f"//{host}")


def _origin_host(origin: str) -> str | None:
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None
