"""Uploaded bytes, by key, in a folder: they never enter Redis."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path


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
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Blob(self._folder / f"blob-{secrets.token_hex(16)}")

    def path(self, key: str) -> Path:
        """Where a blob is. Raises ValueError for a key that is not one of ours."""
        if not key.startswith("blob-") or not key[5:].isalnum():
            raise ValueError(f"{key!r} is not the key of a blob")
        return self._folder / key

    def digest(self, key: str) -> str:
        """SHA-256 of a blob's bytes, in hexadecimal."""
        with open(self.path(key), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def delete(self, key: str | None) -> None:
        if key:
            self.path(key).unlink(missing_ok=True)

    def older_than(self, age: float) -> Iterator[str]:
        """Keys of blobs untouched for `age` seconds."""
        limit = time.time() - age
        for path in self._folder.glob("blob-*"):
            try:
                if path.stat().st_mtime < limit:
                    yield path.name
            except FileNotFoundError:
                continue  # its job has just ended
