"""The API as a worker on another host sees it: where it is, and the audio that it has."""

import base64
import hashlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from redis import Redis

from shared import keys, links
from shared.errors import OminixError, from_status
from workers.flight import Flight

PIECE = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without a byte: the API reads the whole file first, for its digest
CONNECT = 5.0  # seconds
LOOK = 2.0  # seconds that a look at the API may take


class Unreachable(Exception):
    """A file cannot be had on this host now, which is not its job's fault: another worker may have it."""


class Abandoned(Exception):
    """The job has ended while its file was on the way."""


class Apis:
    """There may be several: each has what was uploaded to it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._lock = threading.Lock()
        self._made: Any = None

    def close(self) -> None:
        if self._made:
            self._made.close()

    def answer(self) -> bool:
        """Whether one of them does."""
        import httpx2 as httpx

        for url in self._urls():
            try:
                self._client().get(f"{url}/health", timeout=LOOK)
                return True
            except (httpx.HTTPError, httpx.InvalidURL):
                continue
        return False

    def fetch(self, key: str, target: BinaryIO, flight: Flight) -> None:
        """Copy what is under `key` from the first that has it. Raises Unreachable if one that may have it
        does not answer, else the OminixError that it answered with."""
        with self._redis.pipeline(transaction=False) as pipe:
            links.ask(pipe)
            secret, now = links.secret_and_time(pipe.execute())
        urls = self._urls()
        if not urls or secret is None:
            raise Unreachable("no API says where it is: set OMINIX_HOST or OMINIX_PUBLIC_URL there")
        errors: list[Exception] = []
        for url in urls:
            try:
                return self._get(links.make(url, secret, key, now), url, target, flight)
            except (OminixError, Unreachable) as error:
                errors.append(error)
        raise next((error for error in errors if isinstance(error, Unreachable)), errors[0])

    def _get(self, link: str, url: str, target: BinaryIO, flight: Flight) -> None:
        import httpx2 as httpx

        target.seek(0)
        target.truncate()
        try:
            with self._client().stream("GET", link) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refusal(answer, url)
                digest = copy(answer.iter_bytes(PIECE), target, flight)
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # its own words may quote the link
            raise Unreachable(f"{url} cannot be reached ({type(error).__name__})") from None
        if answer.headers.get("repr-digest") != f"sha-256=:{base64.b64encode(digest).decode()}:":
            raise Unreachable(f"what {url} sent is damaged")

    def _urls(self) -> list[str]:
        """Those that this host can use."""
        urls = sorted(url.decode() for url in self._redis.smembers(keys.APIS))
        hosts = self._redis.mget([keys.api(url) for url in urls]) if urls else []
        usable = (b"", socket.gethostname().encode())
        return [url for url, host in zip(urls, hosts, strict=True) if host in usable]

    def _client(self) -> Any:
        import httpx2 as httpx  # most workers never need it

        with self._lock:
            if self._made is None:
                for name in ("httpx2", "httpcore2"):  # they would log every link
                    logging.getLogger(name).setLevel(logging.WARNING)
                self._made = httpx.Client(timeout=httpx.Timeout(TIMEOUT, connect=CONNECT))
            return self._made


def copy(pieces: Iterator[bytes], target: BinaryIO, flight: Flight) -> bytes:
    """The SHA-256 of what was copied. Raises Abandoned."""
    digest = hashlib.sha256()
    for piece in pieces:
        if flight.over:
            raise Abandoned
        flight.show_life()  # a slow network does not count against its limit
        digest.update(piece)
        target.write(piece)
    return digest.digest()


def _refusal(answer: Any, url: str) -> Exception:
    """What an API's answer means: the job's own error, or that this host cannot have the file."""
    try:
        said = answer.json()["error"]
        error = from_status(answer.status_code, said["message"], said.get("param"), said.get("code"))
    except (ValueError, LookupError, TypeError):
        return Unreachable(f"{url} answered {answer.status_code}")
    if error.status in (400, 403, 404) and error.code != links.CODE:
        return error
    return Unreachable(f"{url} answered {answer.status_code}: {error.message}")
