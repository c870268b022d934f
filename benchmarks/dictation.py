"""A short dictation while a hundred files wait: how long it takes, beside its time alone.

    python -m benchmarks.dictation

Starts a system of its own, measures a clip of five seconds by itself and one full chunk of the model (30 s
of speech) by itself, then queues the files as jobs, and sends the dictation again and again while they
are being heard. It should take its time alone and one chunk at most.
"""

import io
import time
import wave
from pathlib import Path
from statistics import median
from typing import Annotated

import httpx
import numpy as np
import typer
from rich.console import Console

from benchmarks.recordings import DATA, RATE, TRANSCRIPTS, samples
from benchmarks.system import running
from benchmarks.transcription import MODELS

CLIP = "austen-0890.flac"  # 5.3 s
CHUNK = 29  # seconds of speech


def full_chunk() -> bytes:
    """A WAV file that the model hears as one chunk."""
    speech = np.concatenate([samples(name) for name in TRANSCRIPTS] * 2)[: CHUNK * RATE]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(speech.tobytes())
    return file.getvalue()


class Speaker:
    """Asks a server again and again."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=600)

    def ask(self, content: bytes) -> float:
        """Seconds until the text is there."""
        began = time.perf_counter()
        answer = self._http.post(
            "/v1/audio/transcriptions", data={"model": "speech"}, files={"file": ("a.flac", content)}
        )
        answer.raise_for_status()
        return time.perf_counter() - began

    def queue(self, content: bytes) -> None:
        form = {"endpoint": "/v1/audio/transcriptions", "model": "speech"}
        self._http.post("/v1/jobs", data=form, files={"file": ("a.flac", content)}).raise_for_status()

    def waiting(self) -> int:
        return self._http.get("/health").json()["models"]["speech"]["waiting"]


def main(
    model: Annotated[Path, typer.Option(help="The model's folder.")] = Path(
        "~/.ominix/models/whisper-tiny.en"
    ),
    files: Annotated[int, typer.Option(help="Jobs in the batch lane.")] = 100,
    times: Annotated[int, typer.Option(help="Dictations.")] = 10,
    rows: Annotated[int, typer.Option(help="max_concurrency of the model.")] = 8,
) -> None:
    """Measure a dictation alone and while many files are transcribed."""
    clip, chunk = (DATA / CLIP).read_bytes(), full_chunk()
    with running(MODELS.format(model=model.expanduser(), rows=rows)) as system:
        speaker = Speaker(system.url)
        speaker.ask(clip)
        alone = median(speaker.ask(clip) for _ in range(times))
        one_chunk = median(speaker.ask(chunk) for _ in range(3))
        for _ in range(files):
            speaker.queue(chunk)
        took = []
        for _ in range(times):
            time.sleep(one_chunk / 2)  # the batch goes on in between
            took.append(speaker.ask(clip))
        left = speaker.waiting()
    Console(width=110).print(
        f"alone {alone:.2f} s, one chunk {one_chunk:.2f} s; with {files} files queued, {left} of them still "
        f"waiting at the end: median {median(took):.2f} s, at most {max(took):.2f} s; "
        f"bound {alone + one_chunk:.2f} s"
    )


if __name__ == "__main__":
    typer.run(main)
