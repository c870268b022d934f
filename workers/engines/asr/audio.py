"""From an uploaded file to samples: whatever FFmpeg reads, as 16 kHz mono float32."""

import os
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from shared.errors import BadRequest

RATE = 16_000  # samples per second
SHORTEST = 0.1  # seconds
ACCEPTED = "wav, mp3, m4a, mp4, flac, ogg, opus, webm, aac and other audio or video files"

# Containers that hold their own bytes. Playlists and concat scripts would open other files and URLs.
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,"
    "w64,wav,webm,wv"
)
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}


def decode(path: str, longest: float) -> np.ndarray:
    """The samples [n] of the first audio stream, -1 to 1. Reads as it decodes: no thread may hurry it.

    Raises BadRequest (invalid_audio) for what holds no audio, less than 0.1 s or more than `longest`
    seconds of it.
    """
    if not os.path.getsize(path):
        raise invalid("The file is empty.")
    samples = bytearray()
    try:
        with av.open(path, options=OPTIONS, metadata_errors="ignore") as container:
            for piece in _pieces(container):
                samples += piece
                if len(samples) > longest * RATE * 4:
                    raise invalid(f"The audio is longer than {longest:g} s, this model's limit; split it.")
    except (av.FFmpegError, ValueError) as error:
        raise invalid("The file is not audio that can be read.") from error
    if len(samples) < SHORTEST * RATE * 4:
        raise invalid(f"The file has less than {SHORTEST} s of audio.")
    return np.frombuffer(samples, np.float32)


def invalid(message: str) -> BadRequest:
    return BadRequest(f"{message} Accepted are {ACCEPTED}.", param="file", code="invalid_audio")


def _pieces(container: Any) -> Iterator[bytes]:
    if not container.streams.audio:
        raise invalid("The file has no audio stream.")
    resampler = av.AudioResampler(format="fltp", rate=RATE)
    for packet in container.demux(container.streams.audio[0]):
        for frame in _frames(packet):
            yield from map(_mono, resampler.resample(frame))
    yield from map(_mono, resampler.resample(None))


def _mono(frame: Any) -> bytes:
    """The mean of the channels: FFmpeg's own mix to mono is louder than its parts in float."""
    return frame.to_ndarray().mean(axis=0, dtype=np.float32).tobytes()


def _frames(packet: Any) -> list[Any]:
    """A damaged packet costs its own frames, as in every player."""
    try:
        return packet.decode()
    except av.InvalidDataError:
        return []
