"""The jobs of the echo engine: what they have in common, and how one is prepared."""

import time
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from shared.events import Delta, Event
from shared.jobs import JobSpec
from workers.engine import Output
from workers.engines.echo import speech, text
from workers.engines.echo.script import TEXT, Fault, Options, Script, script_of

CONTEXT_LENGTH = 131_072


class Voice(Protocol):
    """Says what a step of a job is: an output's payload is the number of the step, from 0."""

    steps: int

    def render(self, outputs: Iterable[Output]) -> list[Event]: ...


class Job(msgspec.Struct):
    """One job between `prepare` and its end."""

    script: Script
    voice: Voice
    said: int = 0  # steps

    @property
    def hears(self) -> bool:
        """Whether its next step is a passage."""
        return isinstance(self.voice, speech.Speech) and self.said < self.voice.steps

    def next(self) -> Output:
        """The next step. The last one is the end; an empty answer is an end without a word."""
        step, self.said = self.said, self.said + 1
        return Output(step, last=self.said >= self.voice.steps)


def prepare(
    spec: JobSpec, file: str | None, said: Sequence[Delta], options: Options, context_length: int | None
) -> Job:
    """Raises BadRequest, or the Fault that was asked for."""
    script = script_of(spec, options)
    time.sleep(script.prepare_ms / 1000)
    if script.raise_in == "prepare":
        raise Fault("the script raises in prepare")
    if spec.task in TEXT:
        return Job(script, text.voice(spec, script, context_length or CONTEXT_LENGTH))
    heard = speech.voice(spec, file, said, script)
    return Job(script, heard, said=heard.heard)
