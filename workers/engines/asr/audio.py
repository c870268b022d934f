"""From a file to samples: whatever FFmpeg reads, as 16 kHz mono float32, never the whole of it at once."""

import os
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from shared.errors import BadRequest

RATE = 16_000  # samples per second
SHORTEST = 0.1  # seconds
BLOCK = 1.0  # seconds handed out at a time
RATES = range(2_000, 768_001)  # of what is read: one second of a lower rate would become gigabytes
LEANEST = 40  # bytes a second: silence as FLAC. A header that promises more seconds than that lies
ACCEPTED = "wav, mp3, m4a, mp4, flac, ogg, opus, webm, aac and other audio or video files"

# Containers that hold their own bytes. Playlists and concat scripts would open other files and URLs.
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,"
    "w64,wav,webm,wv"
)
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
UNREADABLE = (av.FFmpegError, ValueError, OverflowError, MemoryError)  # what bad bytes make PyAV raise


def invalid(message: str) -> BadRequest:
    return BadRequest(f"{message} Accepted are {ACCEPTED}.", param="file", code="invalid_audio")


class Recording:
    """An opened file. `duration` is what its header or its packets say, in seconds, None if nothing;
    `seconds` how much has been read.

    Opening raises BadRequest (invalid_audio) for what holds no audio, or more than `longest` seconds of
    it. It may be read in another thread, by one at a time.
    """

    def __init__(self, path: str, longest: float) -> None:
        if not os.path.getsize(path):
            raise invalid("The file is empty.")
        self.closed = False
        self._count = 0  # samples read
        self._longest = longest
        try:
            self._container = _open(path)
            self.duration = _header_duration(self._container, path) or _packets_duration(path)
        except UNREADABLE as error:
            raise invalid("The file is not audio that can be read.") from error
        if self.duration and self.duration > longest:
            self.close()
            raise self._too_long()

    @property
    def seconds(self) -> float:
        return self._count / RATE

    def blocks(self) -> Iterator[np.ndarray]:
        """The samples [n] of the first audio stream, -1 to 1, about a second at a time. Once.

        A file that breaks off is read as far as it goes. Raises BadRequest (invalid_audio) for less than
        0.1 s in all, and as soon as there is more than the limit.
        """
        pieces: list[np.ndarray] = []
        gathered = 0
        for piece in self._read():
            pieces.append(piece)
            gathered += len(piece)
            if gathered >= BLOCK * RATE:
                yield np.concatenate(pieces)
                pieces, gathered = [], 0
        if self.seconds < SHORTEST:
            raise invalid(f"The file has less than {SHORTEST} s of audio.")
        if pieces:
            yield np.concatenate(pieces)

    def close(self) -> None:
        self.closed = True
        self._container.close()

    def _read(self) -> Iterator[np.ndarray]:
        pieces = _pieces(self._container)
        while (piece := self._next(pieces)) is not None:
            self._count += len(piece)
            if self.seconds > self._longest:
                raise self._too_long()
            yield piece

    def _next(self, pieces: Iterator[np.ndarray]) -> np.ndarray | None:
        try:
            return next(pieces, None)
        except UNREADABLE as error:
            if self.seconds >= SHORTEST:  # the rest is damaged
                return None
            raise invalid("The file is not audio that can be read.") from error

    def _too_long(self) -> BadRequest:
        return invalid(f"The audio is longer than {self._longest:g} s, this model's limit; split it.")


def decode(path: str, longest: float) -> np.ndarray:
    """All samples of a short file. Raises as `Recording` does."""
    return np.concatenate(list(Recording(path, longest).blocks()))


def _open(path: str) -> Any:
    container = av.open(path, options=OPTIONS, metadata_errors="ignore")
    if not container.streams.audio:
        container.close()
        raise invalid("The file has no audio stream.")
    return container


def _header_duration(container: Any, path: str) -> float | None:
    stream = container.streams.audio[0]
    seconds = container.duration / av.time_base if container.duration else 0.0
    if not seconds and stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    return seconds if 0 < seconds * LEANEST <= os.path.getsize(path) + LEANEST else None


def _packets_duration(path: str) -> float | None:
    """Where the last packet ends, for files whose header does not say; nothing is decoded."""
    with _open(path) as container:
        stream, end = container.streams.audio[0], 0
        try:
            for packet in container.demux(stream):
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
        except UNREADABLE:
            pass  # as far as it can be read
        return float(end * stream.time_base) if end and stream.time_base else None


def _pieces(container: Any) -> Iterator[np.ndarray]:
    resampler, kind = None, None
    for packet in container.demux(container.streams.audio[0]):
        for frame in _frames(packet):
            if frame.sample_rate not in RATES:
                raise invalid(f"The file's sample rate is {frame.sample_rate} Hz.")
            if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                yield from _rest(resampler)  # the stream has changed in the middle
                resampler = av.AudioResampler(format="fltp", rate=RATE)
            yield from map(_mono, resampler.resample(frame))
    yield from _rest(resampler)


def _rest(resampler: Any) -> Iterator[np.ndarray]:
    return map(_mono, resampler.resample(None) if resampler else ())


def _mono(frame: Any) -> np.ndarray:
    """The mean of the channels: FFmpeg's own mix to mono is louder than its parts in float."""
    return np.nan_to_num(frame.to_ndarray().mean(axis=0, dtype=np.float32))


def _frames(packet: Any) -> list[Any]:
    """A damaged packet costs its own frames, as in every player."""
    try:
        return packet.decode()
    except av.InvalidDataError:
        return []
