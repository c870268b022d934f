"""Uploaded bytes in a store that every host reaches, by fsspec: s3://bucket/prefix and the like."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.core import url_to_fs

from shared.blobs import Blob, BlobStore
from shared.settings import SettingsError


class RemoteBlob(Blob):
    """Written to a private file first: an upload may end at any byte, and the client may leave."""

    def __init__(self, path: Path, store: "RemoteBlobs") -> None:
        super().__init__(path)
        self._store = store

    def close(self) -> None:
        super().close()
        self._store.put(self._path)
        self._path.unlink()

    def discard(self) -> None:
        super().discard()
        self._store.delete(self.key)


class RemoteBlobs(BlobStore):
    """`folder` is for what is being uploaded. Raises SettingsError for a URL that cannot be used."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(folder)
        try:
            self._files, base = url_to_fs(url)
        except (ValueError, ImportError) as error:  # no such protocol; its package is missing
            raise SettingsError(f"OMINIX_BLOBS_URL: {error}") from None
        self._base = base.rstrip("/")
        self._deleting = ThreadPoolExecutor(1, thread_name_prefix="blobs")

    def create(self) -> Blob:
        return RemoteBlob(self._new_path(), self)

    def put(self, path: Path) -> None:
        self._files.makedirs(self._base, exist_ok=True)
        self._files.put_file(str(path), self._at(path.name))

    def local(self, key: str) -> None:
        return None

    def open(self, key: str) -> BinaryIO:
        return self._files.open(self._at(key), "rb")

    def delete(self, key: str | None) -> bool:
        """Returns at once: event loops delete too."""
        if key:
            super().delete(key)  # what an upload that broke off has left
            self._deleting.submit(self._remove, self._at(key))
        return True

    def older_than(self, age: float) -> Iterator[str]:
        yield from super().older_than(age)
        limit = datetime.now(UTC).timestamp() - age
        with suppress(FileNotFoundError):
            for found in self._files.ls(self._base, detail=True):
                name = found["name"].rpartition("/")[2]
                if name.startswith("blob-") and 0 < _changed(found) < limit:
                    yield name

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(path)

    def _at(self, key: str) -> str:
        return f"{self._base}/{self.path(key).name}"


def _changed(found: dict[str, Any]) -> float:
    """When a file was last written, in Unix seconds; 0 where a store does not say."""
    for name in ("LastModified", "mtime", "last_modified", "updated", "created"):
        when = found.get(name)
        if isinstance(when, datetime):
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        if isinstance(when, int | float):
            return float(when)
    return 0.0
