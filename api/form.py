"""A multipart form, read as it arrives."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from shared.blobs import Blob, BlobStore
from shared.errors import BadRequest, PayloadTooLarge

MAX_PARTS = 1000


class Uploaded:
    """What may hold an uploaded file."""

    blob: Blob | None = None

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Nothing stays of the file when what is done with it fails, or the client leaves."""
        try:
            yield
        except BaseException:  # a client that leaves cancels
            if self.blob:
                self.blob.discard()
            raise


class Form(Uploaded):
    """`fields` has text, lists of it for names that end in `[]` or come again; the part `file` goes to
    a blob.

    `field_limit` bounds the bytes of all fields together. Whoever feeds it flushes what is pending.
    """

    def __init__(self, boundary: bytes, blobs: BlobStore, field_limit: int) -> None:
        self.fields: dict[str, Any] = {}
        self.filename: str | None = None
        self._blobs = blobs
        self._room = field_limit  # bytes that the fields may still take
        self._parts = 0
        self._ended = False
        self._headers: dict[bytes, bytes] = {}
        self._header = [b"", b""]
        self._name = ""
        self._is_file = False
        self._buffer = bytearray()  # of the part that is being read
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finished,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise BadRequest(f"The multipart body cannot be read: {error}.") from error

    @property
    def pending(self) -> int:
        """Bytes of the file that are not written yet."""
        return len(self._buffer) if self._is_file else 0

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise BadRequest(f"The multipart body cannot be read: {error}.") from error

    async def flush(self) -> None:
        """Write what there is of the file, in a thread: a slow disk must not hold up other requests."""
        data, self._buffer = self._buffer, bytearray()
        await asyncio.to_thread(self.blob.write, data)

    async def finish(self) -> None:
        """Every byte is there: close the blob. Raises BadRequest for a body that ends early."""
        if not self._ended:
            raise BadRequest("The multipart body ends before its last boundary.")
        if self.blob:
            await asyncio.to_thread(self.blob.close)

    def _begin(self) -> None:
        self._parts += 1
        self._headers = {}
        if self._parts > MAX_PARTS:
            raise BadRequest(f"A form may have at most {MAX_PARTS} parts.")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = [b"", b""]

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = self._name == "file"
        if not self._name:
            raise BadRequest("A part of the form has no name.")
        if not self._is_file:
            return
        if self.blob:
            raise BadRequest("Send one 'file' a request.", param="file")
        self.blob = self._blobs.create()
        self.filename = options.get(b"filename", b"").decode(errors="replace") or None

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._buffer += data[start:end]
        if not self._is_file:
            self._room -= end - start
            if self._room < 0:
                raise PayloadTooLarge("The fields of the form are too large.", param=self._name)

    def _end(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        if self._is_file:
            self.blob.write(data)
            self._is_file = False
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"'{self._name}' is not UTF-8 text.", param=self._name) from None
        before = self.fields.get(self._name, [])
        if self._name in self.fields or self._name.endswith("[]"):
            self.fields[self._name] = [*(before if isinstance(before, list) else [before]), text]
        else:
            self.fields[self._name] = text

    def _finished(self) -> None:
        self._ended = True
