"""Long recordings through the service: nothing lost or added, and memory that does not grow.

    python -m benchmarks.long_recording

Builds recordings of real clips and pauses (10 and 60 minutes by default), has each transcribed as a
job by a system of its own, and reports word errors against the clips' transcripts, beside those of the
clips alone; the worker's peak memory; and the API's while a large file is uploaded.
"""

import os
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import jiwer
import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.recordings import DATA, TRANSCRIPTS, write
from benchmarks.system import Running, running
from benchmarks.transcription import MODELS

SAMPLED = 0.1  # seconds between two looks at a process's memory
MIB = 1 << 20


class Peak:
    """The largest resident memory of a process while a block runs."""

    bytes = 0


@contextmanager
def watching(process: psutil.Process) -> Iterator[Peak]:
    peak, over = Peak(), threading.Event()

    def look() -> None:
        while not over.is_set():
            peak.bytes = max(peak.bytes, process.memory_info().rss)
            time.sleep(SAMPLED)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def part(system: Running, *words: str) -> psutil.Process:
    """The process of a part: ("api",) or ("worker", model)."""
    parts = psutil.Process(system.pid).children(recursive=True)
    return next(each for each in parts if each.cmdline()[-len(words) :] == [*words])


def transcribe(url: str, file: Path) -> dict:
    """verbose_json of a file, as a job."""
    form = {"endpoint": "/v1/audio/transcriptions", "model": "speech", "response_format": "verbose_json"}
    with file.open("rb") as opened:
        job = httpx.post(f"{url}/v1/jobs", data=form, files={"file": opened}, timeout=600).json()
    while httpx.get(f"{url}/v1/jobs/{job['id']}").json()["status"] in ("queued", "in_progress"):
        time.sleep(0.2)
    return httpx.get(f"{url}/v1/jobs/{job['id']}/result", timeout=60).raise_for_status().json()


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def errors(said: str, heard: str) -> Counter:
    """`lost` and `added` are the longest runs of words without a counterpart: "coldhearted" for
    "cold-hearted" is a run of one, a clip that is missing or said twice one of five and more."""
    measured = jiwer.process_words(words(said), words(heard))
    runs = measured.alignments[0]
    return Counter(
        words=len(words(said).split()),
        substitutions=measured.substitutions,
        deletions=measured.deletions,
        insertions=measured.insertions,
        lost=max((r.ref_end_idx - r.ref_start_idx for r in runs if r.type == "delete"), default=0),
        added=max((r.hyp_end_idx - r.hyp_start_idx for r in runs if r.type == "insert"), default=0),
    )


def alone(url: str) -> dict[str, Counter]:
    """Each clip's errors when it is sent by itself."""
    return {name: errors(text, transcribe(url, DATA / name)["text"]) for name, text in TRANSCRIPTS.items()}


def upload(url: str, size: int) -> int:
    """Post so many zeros, which are no audio. Returns the status."""

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nspeech\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(size // MIB):
            yield bytes(MIB)
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{url}/v1/audio/transcriptions", content=body(), headers=headers, timeout=600)
    return answer.status_code


def main(
    model: Annotated[Path, typer.Option(help="The model's folder.")] = Path(
        "~/.ominix/models/whisper-tiny.en"
    ),
    minutes: Annotated[list[float] | None, typer.Option(help="Length; may be repeated.")] = None,
    gigabytes: Annotated[float, typer.Option(help="Size of the upload.")] = 1.0,
    rows: Annotated[int, typer.Option(help="max_concurrency of the model.")] = 8,
) -> None:
    """Transcribe long recordings and report errors and memory."""
    os.environ.setdefault("OMINIX_MAX_UPLOAD_MB", "4096")
    table = Table(
        "recording", "took, s", "words", "sub", "del", "ins", "longest del", "ins",
        "alone: sub", "del", "ins", "peak, MiB",
    )  # fmt: skip
    with running(MODELS.format(model=model.expanduser(), rows=rows)) as system:
        by_clip = alone(system.url)
        for length in minutes or [10.0, 60.0]:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "long.wav"
                names = write(file, length * 60)
                with watching(part(system, "worker", "speech")) as peak:
                    began = time.perf_counter()
                    heard = transcribe(system.url, file)
                    took = time.perf_counter() - began
            found = errors(" ".join(TRANSCRIPTS[name] for name in names), heard["text"])
            expected = sum((by_clip[name] for name in names), Counter())
            kinds = ("substitutions", "deletions", "insertions")
            runs = ("lost", "added")
            table.add_row(
                f"{length:g} min", f"{took:.1f}", f"{found['words']}",
                *(f"{found[kind]}" for kind in kinds), *(f"{found[kind]}" for kind in runs),
                *(f"{expected[kind]}" for kind in kinds),
                f"{peak.bytes / MIB:.0f}",
            )  # fmt: skip
        api = part(system, "api")
        before = api.memory_info().rss
        with watching(api) as peak:
            status = upload(system.url, int(gigabytes * 1024) * MIB)
    console = Console(width=140)
    console.print(table)
    console.print(
        f"upload of {gigabytes:g} GiB: status {status}, API {before / MIB:.0f} MiB before, "
        f"{peak.bytes / MIB:.0f} MiB at most"
    )


if __name__ == "__main__":
    typer.run(main)
