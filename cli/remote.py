"""A server that runs, asked by commands that manage models."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from cli.transcribing.server import LOOPBACK
from shared.errors import OminixError, Unavailable, from_status

TIMEOUT = 60.0  # seconds without a byte; a server that is silent for longer sends comments
GLANCE = 2.0  # seconds that a server may take to say that it is there

Json = dict[str, Any]

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request


class Remote:
    """Every method raises OminixError for what the server refuses, and Unavailable if it is not there."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self._client = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=TIMEOUT,
            trust_env=urlsplit(url).hostname not in LOOPBACK,  # a proxy cannot reach this machine
        )

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def health(self) -> Json | None:
        """What /health says; None if no OminiX answers."""
        try:
            said = self._client.get("/health", timeout=GLANCE).json()
            return said if "models" in said else None
        except (httpx.HTTPError, ValueError, TypeError):
            return None

    def ask(self, method: str, path: str, body: Json | None = None) -> Json:
        with self._told():
            answer = self._client.request(method, path, json=body)
            _check(answer)
            return answer.json()

    def events(self, job_id: str) -> Iterator[tuple[str, Json]]:
        """What a job says, from the start: kind ("delta", "done" or "failed") and event."""
        with self._told(), self._client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            _check(answer)
            kind = ""
            for line in answer.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    kind = value
                elif field == "data":
                    yield kind, json.loads(value)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise Unavailable(
                f"No server answers at {self._client.base_url}. Start it with `ominix serve`, or name "
                "another with --url."
            ) from error
        except httpx.HTTPError as error:
            raise Unavailable(f"The connection to {self._client.base_url} broke: {error}") from error


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    answer.read()
    try:
        said = answer.json()["error"]
        error: OminixError = from_status(answer.status_code, said["message"], said.get("param"), said["code"])
    except (ValueError, LookupError, TypeError):
        error = Unavailable(f"{answer.request.url} answered {answer.status_code}: is it OminiX?")
    raise error
