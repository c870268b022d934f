"""What a Redis says of itself: whether it is up, fit for its work, or already there."""

import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.settings import Settings
from workers.embedded import where
from workers.startup import StartError

OLDEST = (6, 2)  # has LMOVE


def connect(settings: Settings, timeout: float = 2.0) -> redis.Redis:
    """A client that fails at once instead of trying again."""
    return redis.Redis.from_url(
        settings.redis, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
    )


def is_up(settings: Settings) -> bool:
    """True if it answers and has loaded its data."""
    with connect(settings) as client:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            raise
        except (redis.ConnectionError, redis.TimeoutError) as error:  # BusyLoadingError is a ConnectionError
            if settings.redis.startswith("rediss:") and (problem := _tls_problem(error)):
                raise StartError(f"Redis at {where(settings)} cannot be used: {problem}.") from error
            return False


def _tls_problem(error: BaseException | None) -> str:
    """What waiting does not mend, if the error came of that."""
    while error := error.__context__ if error else None:
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message.rstrip(".")
            return f"its certificate is refused ({why}); ?ssl_ca_certs=FILE says whom to trust"
        if isinstance(error, FileNotFoundError | PermissionError):
            return f"a certificate named in its URL cannot be read ({error.strerror})"
    return ""


def wait_until_up(
    settings: Settings, patience: float = float("inf"), going_on: Callable[[], bool] = lambda: True
) -> bool:
    """True when it is up; False after `patience` seconds or when `going_on()` no longer holds.

    Raises StartError for a wrong password or address, which waiting does not mend.
    """
    deadline = time.monotonic() + patience
    pause = 0.005
    while going_on() and time.monotonic() < deadline:
        try:
            if is_up(settings):
                return True
        except (redis.RedisError, ValueError, TypeError) as error:  # TypeError: no such option in the URL
            raise StartError(f"Redis at {where(settings)} cannot be used: {error}.") from error
        time.sleep(pause)
        pause = min(0.5, pause * 1.5)
    return False


def check_external(settings: Settings) -> list[str]:
    """What is not as it should be with the server of REDIS_URL, a sentence each.

    Raises StartError if it is too old to work at all.
    """
    with connect(settings) as client:
        version = str(client.info("server").get("redis_version", "0.0"))
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise StartError(f"Redis at {where(settings)} is {version}; OminiX needs 6.2 or newer.")
        try:
            found = client.config_get("maxmemory-policy", "appendonly")
        except redis.ResponseError:  # hosted servers often forbid CONFIG
            return []
    warnings = []
    if (policy := found.get("maxmemory-policy")) != "noeviction":
        warnings.append(f"maxmemory-policy is {policy}: jobs may be dropped when it is full; use noeviction.")
    if found.get("appendonly") != "yes":
        warnings.append("appendonly is off: jobs are lost when it crashes.")
    return warnings


class Adopted:
    """A live server on the socket that another process started."""

    def __init__(self, pid: int, path: Path) -> None:
        self.pid = pid
        self._path = path

    def poll(self) -> int | None:
        """None while it lives. Its exit status is its parent's to know: here 0 stands for any."""
        return None if _exists(self.pid) and _listens(self._path) else 0

    def terminate(self) -> None:
        if _exists(self.pid):
            os.kill(self.pid, signal.SIGTERM)


def find_live(settings: Settings) -> Adopted | None:
    """The server that already listens on the socket, loading or loaded.

    Raises StartError if one listens and does not answer.
    """
    path = settings.redis_socket
    if not _listens(path):
        return None
    with connect(settings, timeout=10.0) as client:
        try:
            return Adopted(int(client.info("server")["process_id"]), path)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if not _listens(path):  # it was just ending
                return None
            raise StartError(f"The Redis on {path} does not answer; end its process first.") from error


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # a full backlog: it lives, and is busy
            return True
        except OSError:
            return False
        return True
