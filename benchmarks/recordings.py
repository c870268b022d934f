"""Recordings of any length, made of the real clips of tests/data and pauses."""

import json
import random
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

RATE = 16_000
DATA = Path(__file__).parent.parent / "tests" / "data"
TRANSCRIPTS: dict[str, str] = json.loads((DATA / "transcripts.json").read_text(encoding="utf-8"))
PAUSES = (0.3, 0.6, 1.0, 2.0, 6.0)  # seconds


def samples(name: str) -> np.ndarray:
    """A clip's samples [n], 16 kHz mono int16."""
    with av.open(str(DATA / name)) as container:
        resampler = av.AudioResampler("s16", "mono", RATE)
        frames = [each for frame in container.decode(audio=0) for each in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def order(seconds: float, seed: int) -> Iterator[tuple[str, float]]:
    """Clips and the pauses behind them, at random, until `seconds` are full."""
    lengths = {name: len(samples(name)) / RATE for name in TRANSCRIPTS}
    draw = random.Random(seed)
    total = 0.0
    while True:
        name, pause = draw.choice(list(TRANSCRIPTS)), draw.choice(PAUSES)
        total += lengths[name] + pause
        if total > seconds:
            return
        yield name, pause


def write(path: Path, seconds: float, seed: int = 0) -> list[str]:
    """Write a WAV file of about that length; the names of the clips in it, in order."""
    clips = {name: samples(name) for name in TRANSCRIPTS}
    names = []
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        for name, pause in order(seconds, seed):
            names.append(name)
            file.writeframes(clips[name].tobytes())
            file.writeframes(np.zeros(int(pause * RATE), np.int16).tobytes())
    return names
