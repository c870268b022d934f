"""An OminiX server as a batch sees it: patient with one that is busy, or away for a while."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2 as httpx

from shared.errors import NotFound, OminixError, Unavailable, from_status

BUSY = (429, 502, 503, 507)
TIMEOUT = 60.0  # seconds without a byte
AWAY = 1.0  # seconds between two looks at a server that is away
PAUSE = 3.0  # seconds, where a busy server does not say how long
BREAKS = 3  # of one request's connection until it is given up
TOO_LARGE = "it may be larger than the server takes (OMINIX_MAX_UPLOAD_MB there)"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Server:
    """`say` is told once what the batch is waiting for. Every method raises OminixError for what the
    server refuses; none gives up on a server that is busy or away."""

    def __init__(self, url: str, api_key: str | None, say: Callable[[str], None]) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._say = say
        self._said: set[str] = set()
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=TIMEOUT,
            trust_env=urlsplit(self.url).hostname not in LOOPBACK,  # a proxy cannot reach this machine
        )

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def model(self, name: str | None, endpoint: str) -> str:
        """The id of this model, or of the first one that serves `endpoint`. Raises Unavailable for a
        server that is not there."""
        try:
            await self._client.get("/health")
        except httpx.TransportError as error:
            raise Unavailable(
                f"No server answers at {self.url}. Start it with `ominix serve`, or name another with --url."
            ) from error
        try:
            if name:
                return (await self._get(f"/v1/models/{quote(name, safe='')}")).json()["id"]
            models = (await self._get("/v1/models")).json()["data"]
            able = [model["id"] for model in models if endpoint in model.get("endpoints", ())]
        except (ValueError, LookupError, TypeError) as error:
            raise Unavailable(f"{self.url} is not OminiX. Name another with --url.") from error
        if able:
            return able[0]
        known = ", ".join(model["id"] for model in models) or "none"
        raise NotFound(
            f"No model of {self.url} serves {endpoint} (models: {known}). "
            "Start one with `ominix serve --model hf:org/repo`."
        )

    async def submit(self, source: Path, fields: Mapping[str, Any], key: str) -> dict:
        """The job object; of an older job, if the key was used before. Raises OSError for a file that
        cannot be read."""
        name = os.fsencode(source.name).decode(errors="replace")

        async def send() -> httpx.Response:
            with source.open("rb") as file:
                return await self._client.post(
                    "/v1/jobs", data=fields, files={"file": (name, file)}, headers={"idempotency-key": key}
                )

        return (await self._ask(send, TOO_LARGE)).json()

    async def job(self, job_id: str) -> dict:
        return (await self._get(f"/v1/jobs/{job_id}")).json()

    async def result(self, job_id: str) -> bytes:
        """The body that the synchronous call would have given."""
        return (await self._get(f"/v1/jobs/{job_id}/result")).content

    async def _get(self, path: str) -> httpx.Response:
        return await self._ask(lambda: self._client.get(path))

    async def _ask(self, send: Callable[[], Awaitable[httpx.Response]], hint: str = "") -> httpx.Response:
        breaks = 0
        while True:
            try:
                answer = await send()
            except (httpx.ConnectError, httpx.ConnectTimeout):
                self._say_once("away", f"{self.url} is away: waiting until it is back. Ctrl-C stops waiting.")
                pause = AWAY
            except httpx.TransportError as error:
                breaks += 1
                if breaks == BREAKS:
                    why = hint or str(error) or type(error).__name__
                    raise Unavailable(f"The connection broke {BREAKS} times; {why}.") from error
                pause = AWAY
            else:
                self._said.discard("away")
                if answer.status_code not in BUSY:
                    return _checked(answer)
                busy = _error(answer)
                self._say_once(busy.code, f"waiting: {busy.message}")
                pause = busy.retry_after or PAUSE
            await asyncio.sleep(pause)

    def _say_once(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._say(sentence)


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    raise _error(answer)


def _error(answer: httpx.Response) -> OminixError:
    """The server's error. Whatever else answers at this address gets a sentence too."""
    fallback = f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}"
    try:
        said = answer.json()["error"]
        error = from_status(answer.status_code, said["message"], said.get("param"), said.get("code"))
    except (ValueError, LookupError, TypeError):
        error = from_status(answer.status_code, fallback, None, None)
    if answer.status_code == 401:
        error = from_status(401, f"{error.message} It is taken from --api-key or OMINIX_API_KEY.", None, None)
    seconds = answer.headers.get("retry-after", "")
    error.retry_after = float(seconds) if seconds.isdigit() else None
    return error
