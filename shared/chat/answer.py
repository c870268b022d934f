"""Answers and chunks of a chat, in the shapes of `openai.types.chat`."""

from typing import Any

from shared.events import Delta, Done
from shared.generation import envelope
from shared.jobs import JobSpec

Json = dict[str, Any]


def body(spec: JobSpec, said: list[Delta], done: Done) -> Json:
    """The whole answer. Log-probabilities are gathered from `said`."""
    scored: dict[int, list[Json]] = {}
    for event in said if spec.params.get("logprobs") else ():
        scored.setdefault(event.data.get("choice", 0), []).extend(event.data.get("logprobs", ()))
    choices = [
        {
            "index": index,
            "message": _message(each),
            "logprobs": _logprobs(scored.get(index, [])) if spec.params.get("logprobs") else None,
            "finish_reason": each["finish_reason"],
        }
        for index, each in enumerate(done.result["choices"])
    ]
    return _head(spec, "chat.completion") | {"choices": choices, "usage": done.usage}


class Stream:
    """The chunks of one streamed answer; every choice begins with its role."""

    def __init__(self, spec: JobSpec) -> None:
        self._head = _head(spec, "chat.completion.chunk")
        options = spec.params.get("stream_options") or {}
        self._with_usage = bool(options.get("include_usage"))
        self._with_logprobs = bool(spec.params.get("logprobs"))
        self._choices = spec.params.get("n") or 1
        self._begun = False

    def delta(self, event: Delta) -> list[Json]:
        data = event.data or {}
        scored = data.get("logprobs") if self._with_logprobs else None
        said = _delta(event.text, data) or ({"content": ""} if scored else None)
        if said is None:
            return self._begin()
        content = None if "tool_calls" in said and not event.text else ""
        return [*self._begin(content), self._chunk(data.get("choice", 0), said, scored=scored)]

    def done(self, event: Done) -> list[Json]:
        frames = self._begin()
        for index, each in enumerate(event.result["choices"]):
            frames.append(self._chunk(index, {}, each["finish_reason"]))
        if self._with_usage:
            frames.append(self._head | {"choices": [], "usage": event.usage})
        return frames

    def _begin(self, content: str | None = "") -> list[Json]:
        """All choices at once: OpenAI's own client wants them to appear in order."""
        if self._begun:
            return []
        self._begun = True
        first = {"role": "assistant", "content": content, "refusal": None}
        return [self._chunk(index, first) for index in range(self._choices)]

    def _chunk(
        self, index: int, delta: Json, finish_reason: str | None = None, scored: list[Json] | None = None
    ) -> Json:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(scored) if scored else None,
            "finish_reason": finish_reason,
        }
        return self._head | {"choices": [choice]} | ({"usage": None} if self._with_usage else {})


def _delta(text: str, data: Json) -> Json:
    said: Json = {}
    if reasoning := data.get("reasoning"):
        said["reasoning_content"] = reasoning
    if text:
        said["content"] = text
    if calls := data.get("tool_calls"):
        said["tool_calls"] = calls
    return said


def _message(choice: Json) -> Json:
    """`content` is null where there is nothing beside calls."""
    calls = choice.get("tool_calls")
    message = {"role": "assistant", "content": choice["text"] or (None if calls else ""), "refusal": None}
    if reasoning := choice.get("reasoning"):
        message["reasoning_content"] = reasoning
    return message | ({"tool_calls": calls} if calls else {})


def _logprobs(scored: list[Json]) -> Json:
    return {"content": [_scored(each) for each in scored], "refusal": None}


def _scored(token: Json) -> Json:
    return {
        "token": token["token"],
        "bytes": token["bytes"],
        "logprob": token["logprob"],
        "top_logprobs": token["top"],
    }


def _head(spec: JobSpec, kind: str) -> Json:
    tier = "flex" if spec.lane == "batch" else "default"
    return envelope(spec, "chatcmpl", kind) | {"service_tier": tier}
