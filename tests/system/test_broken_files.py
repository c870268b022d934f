"""Broken files, made at random from a seed: each is refused or heard, and nothing stays behind."""

import concurrent.futures
import io
import random
import struct
from collections.abc import Callable
from pathlib import Path

import av
import httpx
import pytest

from tests.system.conftest import System, until

pytestmark = pytest.mark.models

CLIP = Path(__file__).parent.parent / "data" / "something.flac"
SEED = 20261124
FORMATS = {
    "wav": "pcm_s16le",
    "flac": "flac",
    "mp3": "libmp3lame",
    "mp4": "aac",
    "adts": "aac",
    "ogg": "libopus",
    "webm": "libopus",
    "matroska": "flac",
}  # container: codec
NAMES = ("a.wav", "a.mp3", "a.m4a", "a.txt", "a", "../../a.flac", "a.webm")


def encoded(container: str) -> bytes:
    """The clip in a container."""
    file = io.BytesIO()
    with av.open(str(CLIP)) as source, av.open(file, "w", format=container) as target:
        rate = 48_000 if FORMATS[container] == "libopus" else 16_000
        stream = target.add_stream(FORMATS[container], rate=rate)
        stream.layout = "mono"
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return file.getvalue()


def truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(1, len(data))]


def flipped(data: bytes, draw: random.Random) -> bytes:
    """A few bits, of the head as often as of the rest."""
    broken = bytearray(data)
    for _ in range(draw.randrange(1, 40)):
        reach = min(len(broken), draw.choice((64, 512, len(broken))))
        broken[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(broken)


def spliced(data: bytes, draw: random.Random) -> bytes:
    """A stretch of it is something else."""
    at = draw.randrange(len(data))
    return data[:at] + draw.randbytes(draw.randrange(1, 4000)) + data[at + draw.randrange(4000) :]


def huge(data: bytes, draw: random.Random) -> bytes:
    """The head of a WAV file that claims more than there is, of everything."""
    channels, rate = draw.choice((0, 1, 255, 65535)), draw.choice((0, 1, 16_000, 2**31 - 1, 2**32 - 1))
    head = struct.pack("<HHIIHH", draw.choice((1, 3, 0xFFFE)), channels, rate, 2**32 - 1, 65535, 16)
    sizes = struct.pack("<I", 2**32 - 1)
    begin = b"RIFF" + sizes + b"WAVEfmt \x10\0\0\0" + head + b"data" + sizes
    return begin + data[: draw.randrange(len(data))]


def noise(data: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(draw.randrange(1, 20_000))


def nothing(data: bytes, draw: random.Random) -> bytes:
    return b""


BREAKS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    truncated, flipped, spliced, huge, noise, nothing
)  # fmt: skip


@pytest.mark.parametrize("count", [24, pytest.param(320, marks=pytest.mark.slow)])
def test_broken_files_are_refused_or_heard_and_leave_nothing(system: System, count: int) -> None:
    draw = random.Random(SEED)
    whole = [encoded(container) for container in FORMATS]
    files = []
    for number in range(count):
        broken = BREAKS[number % len(BREAKS)](draw.choice(whole), draw)
        files.append((draw.choice(NAMES), broken))
    worker = system.part("worker", "whisper-tiny.en").pid

    def send(named: tuple[str, bytes]) -> httpx.Response:
        form = {"model": "whisper-1"}
        url = f"{system.url}/v1/audio/transcriptions"
        return httpx.post(url, data=form, files={"file": named}, timeout=120)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, files))

    assert [answer.text for answer in answers if answer.status_code >= 500] == []
    assert {answer.status_code for answer in answers} == {200, 400}
    for answer in answers:
        if answer.status_code == 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert answer.json()["error"]["param"] == "file"
    assert system.part("worker", "whisper-tiny.en").pid == worker
    until(lambda: not list(system.blobs.glob("blob-*")))
