"""Settings: read from the environment once, then passed down."""

import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the message names the variable."""


def shipped(name: str) -> Path:
    """A file that OminiX brings: at the top of a checkout, below the environment's share/ in a wheel."""
    checkout = Path(__file__).parent.parent / name
    return checkout if checkout.is_file() else Path(sys.prefix) / "share" / "ominix" / name


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured, each field from `OMINIX_<FIELD>` (and `REDIS_URL`).

    Durations are seconds, sizes are MiB where the name ends in `_mb`.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    home: Path = Path("~/.ominix")
    models_file: Path = shipped("models.toml")
    redis_url: str = ""  # empty: the embedded server below `home`
    redis_conf: Path = shipped("redis.conf")
    cors_origins: str = "*"  # comma-separated
    max_json_mb: Positive = 4
    max_base64_mb: Positive = 32  # of JSON with audio in it
    max_upload_mb: Positive = 2048
    audio_folders: str = ""  # comma-separated; requests may name files below them
    blobs_url: str = ""  # a store that every host reaches, for fsspec; empty: a folder below `home`
    public_url: str = ""  # of the API, for workers on other hosts; empty: its own host and port
    result_ttl: Positive = 86_400
    request_timeout: Seconds = 600.0  # a synchronous wait
    keepalive: Seconds = 10.0  # between SSE comments while nothing is said
    lease: Positive = 15  # of a running job
    intermediate_grace: Seconds = 5.0  # between a job's take and its registration
    drain_timeout: Seconds = 30.0
    hang_timeout: Seconds = 120.0  # of one engine step
    batch_reserve: int = 1  # slots that batch work leaves free
    batch_share: Share = 0.15  # of its time that batch work keeps beside other workers' interactive requests
    memory_budget_mb: Count = 0  # for the workers of this machine together; 0: three quarters of its memory
    keep_alive: Seconds = 300.0  # without a request until a downloaded model is unloaded
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    extra_models: str = ""  # comma-separated sources (hf:org/repo) beside the models file
    api_keys: str = ""  # comma-separated; empty: no key is asked for
    supervisor_pid: int = 0  # set by `ominix serve` for its children
    worker_name: str = ""  # set by `ominix serve` for its workers
    memory_share_mb: Count = 0  # the same: what this worker may take of the budget; 0: as much as there is

    @property
    def models_dir(self) -> Path:
        return self.home / "models"

    @property
    def blobs_dir(self) -> Path:
        return self.home / "blobs"

    @property
    def audio_folder_paths(self) -> list[Path]:
        return [Path(each.strip()).expanduser() for each in self.audio_folders.split(",") if each.strip()]

    @property
    def redis_socket(self) -> Path:
        """The embedded server's socket, in a short 0700 directory: macOS allows 104 bytes."""
        digest = format(zlib.crc32(str(self.home).encode()), "x")
        return Path(tempfile.gettempdir()) / f"ominix-{os.getuid()}-{digest}" / "redis.sock"

    @property
    def redis(self) -> str:
        """The URL that every process connects to."""
        return self.redis_url or f"unix://{self.redis_socket}"


def read_settings(environ: dict[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from `environ` (default: the process's), `overrides` on top.

    Raises SettingsError naming the variable and what is wrong with it.
    """
    environ = dict(os.environ if environ is None else environ)
    raw: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        if (value := environ.get(f"OMINIX_{field.name.upper()}")) is not None:
            raw[field.name] = value
    if not raw.get("redis_url") and environ.get("REDIS_URL"):
        raw["redis_url"] = environ["REDIS_URL"]
    raw.update({k: v for k, v in overrides.items() if v is not None})
    _check_redis_url(raw.get("redis_url", ""))
    try:
        settings = msgspec.convert(raw, Settings, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise SettingsError(_name_variable(str(error))) from error
    return msgspec.structs.replace(
        settings,
        home=settings.home.expanduser().resolve(),
        models_file=settings.models_file.expanduser().resolve(),
        redis_conf=settings.redis_conf.expanduser().resolve(),
    )


def _check_redis_url(url: str) -> None:
    """The message of whoever finds it out later would quote a part of it, perhaps of the password."""
    try:
        parts = urlsplit(url)
        network = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
        good = not url or network or parts.scheme == "unix"
    except ValueError:
        good = False
    if not good:
        raise SettingsError(
            "REDIS_URL cannot be used: expected rediss://user:password@host:port, redis://… or unix://…, "
            "with / ? # @ : % in the password written as %2F %3F %23 %40 %3A %25"
        )


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise TypeError(f"{kind.__name__} cannot be read from the environment")


def _name_variable(message: str) -> str:
    reason, _, path = message.partition(" - at `$.")
    name = f"OMINIX_{path.rstrip('`').upper()}" if path else "settings"
    return f"{name}: {reason}"
