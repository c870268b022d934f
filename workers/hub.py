"""A repo on the Hugging Face hub: the files of it that a model needs, and nothing is fetched twice.

huggingface_hub's own download to a folder begins a file anew when its process was ended, and models are often
one file of many gigabytes. Here what has come of a file stays, under a name made of its hash, `http_get` goes
on behind it, and the hash is checked at the end.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

import msgspec

from shared.errors import BadRequest, Forbidden, InsufficientStorage, NotFound, Unavailable
from workers.sources import POLL, Progress, WeightsError, last_line

WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.tiktoken", "*.model")
UNWANTED = ("onnx/*", "original/*", "openvino/*", "coreml/*", "[0-9]*_adapters.safetensors")
TWICE = "consolidated*.safetensors"  # the weights once more, in another form
INCOMPLETE = ".incomplete"  # the folder of what has not come whole
SPARE = 256 << 20  # bytes of the disk that stay free
FILES = 4  # at a time
PIECE = 1 << 20  # bytes that are read at once


class File(msgspec.Struct, frozen=True):
    """One file of a repo. `sha256` or `git` is its hash, the latter as git makes it."""

    name: str
    size: int
    sha256: str | None
    git: str | None

    @property
    def hash(self) -> str | None:
        return self.sha256 or self.git


class _Stopped(Exception):
    """Another file could not be had."""


def fetch_snapshot(
    repo: str, revision: str | None, folder: Path, progress: Progress, whole: str = "config.json"
) -> None:
    """Download the files of a hub repo that a model needs into `folder`, going on where an earlier
    download stopped; a repo without the file `whole` is refused, and one that the disk cannot hold.
    HF_TOKEN and HF_ENDPOINT are honoured. Raises WeightsError."""
    from huggingface_hub import HfApi, constants

    constants.DOWNLOAD_CHUNK_SIZE = PIECE  # of 10 MiB, which would be lost each time, and hide the progress
    with _told(repo, revision):
        info = HfApi(endpoint=_endpoint()).model_info(repo, revision=revision, files_metadata=True)
        files = needed(info.siblings or [])
        names = {file.name for file in files}
        if not any(name.endswith(".safetensors") for name in names) or whole not in names:
            raise WeightsError(
                f"{repo} has no {whole} or no *.safetensors: MLX cannot load it.", BadRequest, param="repo_id"
            )
        download = _Download(repo, info.sha, folder, files)
        download.prepare()
        download.run(progress)


def needed(siblings: Sequence[Any]) -> list[File]:
    """Those of a repo's files that a model is loaded from, the largest first."""
    names = [each.rfilename for each in siblings if _is_wanted(each.rfilename)]
    weights = [name for name in names if name.endswith(".safetensors")]
    twice = {name for name in weights if fnmatch(name, TWICE)}
    if len(twice) == len(weights):
        twice = set()
    found = [
        File(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else None, each.blob_id)
        for each in siblings
        if each.rfilename in names and each.rfilename not in twice
    ]
    return sorted(found, key=lambda file: -file.size)


class _Download:
    """The files of one commit, several at a time."""

    def __init__(self, repo: str, commit: str, folder: Path, files: Sequence[File]) -> None:
        self._repo, self._commit = repo, commit
        self._folder, self._files = folder, files
        self._incomplete = folder / INCOMPLETE
        self._came: dict[str, int] = {}  # bytes by file
        self._stop = threading.Event()

    def prepare(self) -> None:
        """Keep what is of use of an earlier download, and see that there is room for the rest."""
        self._incomplete.mkdir(parents=True, exist_ok=True)
        places = {self._folder / file.name for file in self._files}
        parts = {self._part(file) for file in self._files}
        for path in [path for path in self._folder.rglob("*") if path.is_file()]:
            if path not in places | parts:
                path.unlink()
        for file in self._files:
            place, part = self._folder / file.name, self._part(file)
            if place.is_file() and not _is_whole(place, file):
                place.unlink()
            if part.is_file() and part.stat().st_size > file.size:
                part.unlink()
            self._came[file.name] = _size(place) or _size(part)
        free = shutil.disk_usage(self._folder).free
        more = self._total - self._done
        if more + SPARE > free:
            raise WeightsError(
                f"{self._repo} takes {_readable(more)} more, and on the disk of {self._folder.parent} "
                f"{_readable(free)} are free, of which {_readable(SPARE)} stay so. "
                "Delete what is not needed, or set OMINIX_HOME to a place on another disk.",
                InsufficientStorage,
            )

    def run(self, progress: Progress) -> None:
        """Raises what the first file that could not be had raised."""
        progress("download", self._done, self._total)
        pool = ThreadPoolExecutor(FILES, thread_name_prefix="download")
        try:
            waiting = {pool.submit(self._fetch, file) for file in self._files}
            while waiting:
                ended = {future for future in waiting if future.done()}
                for future in ended:
                    future.result()
                waiting -= ended
                if not ended:
                    self._stop.wait(POLL)
                progress("download", self._done, self._total)
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
        shutil.rmtree(self._incomplete)

    @property
    def _total(self) -> int:
        return sum(file.size for file in self._files)

    @property
    def _done(self) -> int:
        return sum(self._came.values())

    def _part(self, file: File) -> Path:
        """Where a file gathers: under a name that only this file with this content has."""
        content = f"{file.hash or self._commit} {file.name}"
        return self._incomplete / hashlib.sha256(content.encode()).hexdigest()[:32]

    def _fetch(self, file: File) -> None:
        place, part = self._folder / file.name, self._part(file)
        if place.is_file():
            return
        self._get(file, part)
        if not _is_whole(part, file, known=False):
            part.unlink()
            raise WeightsError(f"{self._repo}: {file.name} did not arrive whole. Try again.", Unavailable)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, place)

    def _get(self, file: File, part: Path) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers, disable_progress_bars

        disable_progress_bars()
        url = hf_hub_url(self._repo, file.name, revision=self._commit, endpoint=_endpoint())
        headers = build_hf_headers() | {"accept-encoding": "identity"}
        with open(part, "r+b" if part.exists() else "w+b") as opened:
            begun = opened.seek(0, os.SEEK_END)
            if file.size and begun == file.size:
                return
            sink = _Sink(opened, lambda at: self._came.update({file.name: at}), self._stop)
            http_get(url, sink, resume_size=begun, headers=headers, expected_size=file.size or None)


class _Sink:
    """A file that is written, as far as `http_get` needs one; says how far it is, and can be stopped."""

    def __init__(self, file: IO[bytes], tell: Any, stop: threading.Event) -> None:
        self._file, self._tell, self._stop = file, tell, stop

    def write(self, data: bytes) -> None:
        if self._stop.is_set():
            raise _Stopped
        self._file.write(data)
        self._file.flush()
        self._tell(self._file.tell())

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, to: int) -> None:
        self._file.seek(to)

    def truncate(self) -> None:
        self._file.truncate()
        self._tell(self._file.tell())


@contextmanager
def _told(repo: str, revision: str | None) -> Iterator[None]:
    """What huggingface_hub raises, as a sentence that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{repo} is gated: accept its terms at https://huggingface.co/{repo} and set HF_TOKEN.",
            Forbidden, code="gated_repo",
        ) from error  # fmt: skip
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"There is no hub repo {repo}, or it is private: check the name, or set HF_TOKEN.",
            NotFound, param="repo_id",
        ) from error  # fmt: skip
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"{repo} has no revision {revision!r}.", NotFound, param="revision") from error
    except errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise WeightsError(
                f"The hub refuses {repo}: {last_line(str(error))} Set HF_TOKEN to a token that may read it.",
                Forbidden, code="gated_repo",
            ) from error  # fmt: skip
        raise _unreachable(repo, error) from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        raise _unreachable(repo, error) from error
    except OSError as error:
        if error.errno is not None:  # the disk's
            raise
        raise _unreachable(repo, error) from error


def _unreachable(repo: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"{repo} could not be downloaded: {last_line(str(error))} "
        "Check the network, then try again; what is there already is kept.",
        Unavailable,
    )


def _is_wanted(name: str) -> bool:
    """A name that leads out of the folder is nobody's."""
    if name.startswith("/") or ".." in Path(name).parts or "\\" in name:
        return False
    return any(fnmatch(name, p) for p in WANTED) and not any(fnmatch(name, p) for p in UNWANTED)


def _is_whole(path: Path, file: File, known: bool = True) -> bool:
    """Whether this is the file; `known`: one without a hash to compare is not."""
    if file.size and path.stat().st_size != file.size:
        return False
    if not file.hash:
        return not known
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as opened:
        while piece := opened.read(PIECE):
            digest.update(piece)
    return digest.hexdigest() == file.hash


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
