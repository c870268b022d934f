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
PACKET = 60  # seconds; a packet that promises more lies
LARGEST = 1 << 18  # samples in one frame; FFmpeg refuses more instead of allocating them
ACCEPTED = "wav, mp3, m4a, mp4, flac, ogg, opus, webm, aac and other audio or video files"

# Containers that hold their own bytes. Playlists and concat scripts would open other files and URLs.
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,"
    "w64,wav,webm,wv"
)
HEADERLESS = ("aac", "ac3", "eac3", "mp3")  # FFmpeg guesses their length from the first frames' bitrate
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
# What bad bytes make PyAV raise; IndexError where a stream begins in the middle of the file.
UNREADABLE = (av.FFmpegError, ValueError, OverflowError, MemoryError, IndexError)


def invalid(message: str) -> BadRequest:
    return BadRequest(f"{message} Accepted are {ACCEPTED}.", param="file", code="invalid_audio")


class Recording:
    """An opened file. `duration` is what its header or its packets say, in seconds, None if nothing;
    `seconds` how much has been read.

    Opening raises BadRequest (invalid_audio) for what holds no audio, or more than `longest` seconds of
    it. It may be read in another thread, by one at a time; `close` it if it is not read to the end.
    """

    def __init__(self, path: str, longest: float) -> None:
        if not os.path.getsize(path):
            raise invalid("The file is empty.")
        self._count = 0  # samples read
        self._longest = longest
        self._container = _open(path)
        try:
            self.duration = _duration(self._container, path, longest)
        except UNREADABLE as error:
            self.close()
            raise _unreadable() from error
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
        try:
            for piece in self._read():
                pieces.append(piece)
                gathered += len(piece)
                if gathered >= BLOCK * RATE:
                    yield np.concatenate(pieces)
                    pieces, gathered = [], 0
            if self.seconds < SHORTEST:
                raise invalid(f"The file has less than {SHORTEST} s of audio that can be read.")
            if pieces:
                yield np.concatenate(pieces)
        finally:
            self.close()

    def close(self) -> None:
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
            raise _unreadable() from error

    def _too_long(self) -> BadRequest:
        return invalid(f"The audio is longer than {self._longest:g} s, this model's limit; split it.")


def decode(path: str, longest: float) -> np.ndarray:
    """All samples [n] of a short file. Raises as `Recording` does."""
    return np.concatenate(list(Recording(path, longest).blocks()))


def _unreadable() -> BadRequest:
    return invalid("The file is not audio that can be read.")


def _open(path: str) -> Any:
    try:
        container = av.open(path, options=OPTIONS, metadata_errors="ignore")
    except UNREADABLE as error:
        raise _unreadable() from error
    if not container.streams.audio:
        container.close()
        raise invalid("The file has no audio stream.")
    if container.streams.audio[0].codec_context is None:
        container.close()
        raise invalid("The file's audio is in a format that cannot be read.")
    return container


def _duration(container: Any, path: str, longest: float) -> float | None:
    """The header's word is taken unless it is a guess, or would have the file refused: headers lie."""
    said = _header_duration(container)
    if said and said <= longest and container.format.name not in HEADERLESS:
        return said
    return _packets_duration(path, longest)


def _header_duration(container: Any) -> float | None:
    """Of the audio, else of the whole file: a video may go on without sound."""
    stream = container.streams.audio[0]
    if stream.duration and stream.duration > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and container.duration > 0 else None


def _packets_duration(path: str, longest: float) -> float | None:
    """The sum of the packets' durations, until it passes `longest`. Nothing is decoded: an hour takes
    0.1 to 0.4 s. Timestamps are no measure: they may begin anywhere and have gaps."""
    with _open(path) as container:
        stream, total = container.streams.audio[0], 0
        if not (unit := float(stream.time_base or 0)):
            return None
        try:
            for packet in container.demux(stream):
                if 0 < (packet.duration or 0) * unit < PACKET:
                    total += packet.duration
                if total * unit > longest:
                    break
        except UNREADABLE:
            pass  # as far as it can be read
        return total * unit or None


def _pieces(container: Any) -> Iterator[np.ndarray]:
    stream = container.streams.audio[0]
    stream.codec_context.options = {"max_samples": str(LARGEST)}
    resampler, kind = None, None
    for packet in container.demux(stream):
        for frame in _frames(packet):
            if frame.sample_rate not in RATES:
                raise invalid(f"The file's sample rate is {frame.sample_rate} Hz.")
            if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                yield from _rest(resampler)  # the stream has changed in the middle
                resampler = av.AudioResampler(format="flt", rate=RATE)
            yield from map(_mono, resampler.resample(frame))
    yield from _rest(resampler)


def _rest(resampler: Any) -> Iterator[np.ndarray]:
    return map(_mono, resampler.resample(None) if resampler else ())


def _mono(frame: Any) -> np.ndarray:
    """The mean of the channels: FFmpeg's own mix to mono is louder than its parts in float.

    The frame is packed: of a planar one with more than eight channels PyAV reads planes that do not
    exist, and the process dies.
    """
    channels = np.nan_to_num(frame.to_ndarray()).clip(-1, 1).reshape(-1, frame.layout.nb_channels)
    return channels.mean(axis=1, dtype=np.float32)


def _frames(packet: Any) -> list[Any]:
    """A damaged packet costs its own frames, as in every player."""
    try:
        return packet.decode()
    except av.FFmpegError:
        return []
