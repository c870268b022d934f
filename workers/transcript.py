"""One transcription job's passages as events; no model in it."""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from shared.events import Delta, Done
from shared.transcript import Passage, Passages, of, passages

log = logging.getLogger("ominix.transcript")


class Ended(msgspec.Struct, frozen=True):
    """The end of a recording: its `duration` in seconds, and the English name of its language."""

    duration: float
    language: str | None = None


class Transcript:
    """A job's passages from the first attempt on; `said` is what its readers have been told before.

    `duration` is the recording's in seconds, as far as it is known: progress is measured by it.
    """

    def __init__(self, duration: float | None, said: Sequence[Delta] = ()) -> None:
        self._duration = duration
        self._passages = Passages()
        self.before: dict[int, tuple[float, float]] = {}  # seconds of each passage that was heard before
        self.languages: Counter[str] = Counter()  # characters heard in each before
        for passage in passages(said):
            self._passages.add(passage)
            self.before[passage.index] = passage.start, passage.end
            if passage.language:
                self.languages[passage.language] += len(passage.text)
        self._progress = max((delta.progress or 0.0 for delta in said), default=0.0)
        self._begun = time.monotonic()

    def __contains__(self, index: int) -> bool:
        """Whether this passage need not be heard again."""
        return index in self._passages

    def hear(self, passage: Passage) -> Delta:
        """The event of a passage, with the text that is now in order."""
        text, _ = self._passages.add(passage)
        if self._duration:
            self._progress = max(self._progress, min(self._passages.seconds / self._duration, 1.0))
        return Delta(text, progress=self._progress, data=of(passage))

    def end(self, ended: Ended) -> Done:
        result = {
            "language": ended.language,
            "duration": ended.duration,
            "chunks": self._passages.count,
            "processing_time": round(time.monotonic() - self._begun, 3),
        }
        return Done(result, {"type": "duration", "seconds": math.ceil(ended.duration)})


def log_heard(job_id: str, index: int) -> None:
    """A chunk was computed; from these lines one sees what a crash made the next attempt do again."""
    log.debug("job %s: heard chunk %d", job_id, index)
