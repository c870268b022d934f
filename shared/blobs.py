"""Uploaded bytes, by key, in a folder or a store of files: they never enter Redis."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from shared.settings import Settings


class Blob:
    """A blob that is being written. `close` keeps it, `discard` leaves nothing."""

    def __init__(self, path: Path) -> None:
        self.key = path.name
        self.size = 0
        self._path = path
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, data: bytes) -> None:
        """Raises OSError when the disk is full."""
        self._file.write(data)
        self.size += len(data)

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class BlobStore:
    """Blobs in one private folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self) -> Blob:
        return Blob(self._new_path())

    def path(self, key: str) -> Path:
        """Where a blob is. Raises ValueError for a key that is not one of ours."""
        if not key.startswith("blob-") or not key[5:].isalnum():
            raise ValueError(f"{key!r} is not the key of a blob")
        return self._folder / key

    def local(self, key: str) -> Path | None:
        """The blob's file, if it is on this host."""
        path = self.path(key)
        return path if path.is_file() else None

    def open(self, key: str) -> BinaryIO:
        """Raises FileNotFoundError, ValueError."""
        return open(self.path(key), "rb")

    def digest(self, key: str) -> str:
        """SHA-256 of a blob's bytes, in hexadecimal."""
        with self.open(key) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def delete(self, key: str | None) -> bool:
        """False if this store has no such blob: another host's may."""
        try:
            if key:
                self.path(key).unlink()
            return True
        except FileNotFoundError:
            return False

    def older_than(self, age: float) -> Iterator[str]:
        """Keys of blobs untouched for `age` seconds."""
        limit = time.time() - age
        for path in self._folder.glob("blob-*"):
            try:
                if path.stat().st_mtime < limit:
                    yield path.name
            except FileNotFoundError:
                continue  # its job has just ended

    def _new_path(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._folder / f"blob-{secrets.token_hex(16)}"


def blob_store(settings: Settings) -> BlobStore:
    """The store of OMINIX_BLOBS_URL, by default a folder of this host. Raises SettingsError."""
    url = settings.blobs_url
    if not url:
        return BlobStore(settings.blobs_dir)
    if url.startswith("file://"):
        return BlobStore(Path(unquote(urlsplit(url).path)))
    from shared.remote_blobs import RemoteBlobs  # fsspec takes a while to import

    return RemoteBlobs(url, settings.blobs_dir)
