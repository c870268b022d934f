"""Links to the bytes of a job, for workers on other hosts: signed, and good for a while.

The signature is HMAC-SHA256 over key and expiry, with a secret that is kept in Redis: who may read that
may read the jobs as well. The clock is Redis's own, so hosts whose clocks differ agree.
"""

import hashlib
import hmac
import secrets
from typing import Any

from shared import keys
from shared.errors import Forbidden

PREFIX = "/v1/blobs/"
LIFETIME = 600  # seconds in which the download must begin
CODE = "invalid_link"  # of the answer to a link that is not good


def make_secret(pipeline: Any) -> None:
    """Queue on a pipeline that there be a secret: the API's to do."""
    pipeline.set(keys.LINK_SECRET, secrets.token_hex(32), nx=True)


def ask(pipeline: Any) -> None:
    """Queue on a pipeline, sync or async, what `secret_and_time` makes of its two replies."""
    pipeline.get(keys.LINK_SECRET)
    pipeline.time()


def secret_and_time(replies: list[Any]) -> tuple[bytes | None, int]:
    """The secret, None if no API has made one yet, and Redis's time in Unix seconds."""
    secret, (now, _) = replies
    return secret, now


def sign(secret: bytes, key: str, expires: int) -> str:
    return hmac.new(secret, f"{key}\n{expires}".encode(), hashlib.sha256).hexdigest()


def make(base: str, secret: bytes, key: str, now: int) -> str:
    """The link to the bytes under `key` from the API at `base`."""
    expires = now + LIFETIME
    return f"{base}{PREFIX}{key}?expires={expires}&signature={sign(secret, key, expires)}"


def check(secret: bytes | None, key: str, expires: str, signature: str, now: int) -> None:
    """Raises Forbidden for a link that was not made here, was changed, or is too old."""
    number = int(expires) if expires.isascii() and expires.isdigit() and len(expires) < 20 else 0
    good = sign(secret or secrets.token_bytes(), key, number)
    if not hmac.compare_digest(good.encode(), signature.encode(errors="replace")) or now > number:
        raise Forbidden("This link is not signed by this system, or has expired.", code=CODE)
