"""What the echo engine hears: the size and the SHA-256 of the file, one word a passage."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from itertools import count

from shared.errors import BadRequest
from shared.events import Delta, Event
from shared.jobs import JobSpec
from shared.transcript import Passage, Segment, TokenLogprob, Word
from workers.engine import Output
from workers.engines.echo.script import Script
from workers.engines.echo.words import WORD, repeat
from workers.transcript import Ended, Transcript

BYTES_PER_SECOND = 32_000  # a file counts as 16 kHz mono of 16 bits


class Speech:
    """Renders the words of a transcription: each is a passage of its own, of equal length."""

    def __init__(self, words: list[str], language: str, seconds: float, said: Sequence[Delta]) -> None:
        self.steps = len(words)
        self._words = words
        self._length = seconds / max(len(words), 1)
        self._ended = Ended(seconds, language)
        self._transcript = Transcript(seconds, said)

    @property
    def heard(self) -> int:
        """How many words an earlier attempt has said."""
        return next(index for index in count() if index not in self._transcript)

    def render(self, outputs: Iterable[Output]) -> list[Event]:
        events: list[Event] = []
        for output in outputs:
            if output.payload < self.steps:
                events.append(self._transcript.hear(self._passage(output.payload)))
            if output.last:
                events.append(self._transcript.end(self._ended))
        return events

    def _passage(self, index: int) -> Passage:
        word = self._words[index].strip()
        start, end = index * self._length, (index + 1) * self._length
        segment = Segment(start, end, word, words=[Word(word, start, end, 1.0)])
        token = TokenLogprob(word, list(word.encode()), 0.0)
        return Passage(index, start, end, word, segments=[segment], logprobs=[token])


def voice(spec: JobSpec, file: str | None, said: Sequence[Delta], script: Script) -> Speech:
    """Raises BadRequest."""
    if file is None or not (size := os.path.getsize(file)):
        raise BadRequest("The file is empty.", param="file", code="invalid_audio")
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    groups = " ".join(digest[at : at + 4] for at in range(0, 64, 4))
    words = repeat(WORD.findall(f"{size} bytes of {groups}"), script.tokens)
    language = (spec.params.get("language") or "english").lower()
    return Speech(words, language, size / BYTES_PER_SECOND, said)
