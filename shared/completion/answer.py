"""Answers and chunks of a completion, in the shape of `openai.types.Completion`."""

from typing import Any

from shared.completion.logprobs import Table
from shared.events import Delta, Done
from shared.generation import envelope
from shared.jobs import JobSpec

Json = dict[str, Any]


def body(spec: JobSpec, said: list[Delta], done: Done) -> Json:
    """The whole answer. Log-probabilities are gathered from `said`."""
    tables = _Tables(spec)
    scored: dict[int, list[Json]] = {}
    for event in said:
        data = event.data or {}
        scored.setdefault(data.get("choice", 0), []).extend(data.get("logprobs", ()))
    choices = [
        {
            "index": index,
            "text": each["text"],
            "logprobs": tables.rows(index, scored.get(index, [])),
            "finish_reason": each["finish_reason"],
        }
        for index, each in enumerate(done.result["choices"])
    ]
    return envelope(spec, "cmpl", "text_completion") | {"choices": choices, "usage": done.usage}


class Stream:
    """The chunks of one streamed answer; text offsets go on from chunk to chunk."""

    def __init__(self, spec: JobSpec) -> None:
        self._head = envelope(spec, "cmpl", "text_completion")
        options = spec.params.get("stream_options") or {}
        self._with_usage = bool(options.get("include_usage"))
        self._tables = _Tables(spec)

    def delta(self, event: Delta) -> list[Json]:
        data = event.data or {}
        scored = data.get("logprobs")
        if not event.text and not (scored and self._tables.asked):
            return []
        index = data.get("choice", 0)
        return [self._chunk(index, event.text, self._tables.rows(index, scored) if scored else None)]

    def done(self, event: Done) -> list[Json]:
        frames = [
            self._chunk(index, "", None, each["finish_reason"])
            for index, each in enumerate(event.result["choices"])
        ]
        if self._with_usage:
            frames.append(self._head | {"choices": [], "usage": event.usage})
        return frames

    def _chunk(self, index: int, text: str, logprobs: Json | None, finish_reason: str | None = None) -> Json:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head | {"choices": [choice]} | ({"usage": None} if self._with_usage else {})


class _Tables:
    """A table of log-probabilities for each choice, if they were asked for."""

    def __init__(self, spec: JobSpec) -> None:
        self.asked = spec.params.get("logprobs") is not None
        self._tables: dict[int, Table] = {}

    def rows(self, choice: int, scored: list[Json]) -> Json | None:
        if not self.asked:
            return None
        return self._tables.setdefault(choice, Table()).rows(scored)
