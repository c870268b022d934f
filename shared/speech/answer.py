"""Answers and events of transcription and translation, in the shapes of `openai.types.audio`."""

from typing import Any

import msgspec

from shared import subtitles
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.tasks import Plain
from shared.transcript import Passage, Passages, Segment, Word, passage_of, passages


def body(spec: JobSpec, said: list[Delta], done: Done) -> dict | Plain:
    """The answer in the format that was asked for."""
    heard = passages(said)
    text = _text(heard)
    segments = [segment for passage in heard for segment in _segments(passage)]
    match spec.params.get("response_format"):
        case "text":
            return Plain(f"{text}\n", "text/plain; charset=utf-8")
        case "srt":
            srt = subtitles.srt(segments, done.result["duration"])
            return Plain(srt, "application/x-subrip; charset=utf-8")
        case "vtt":
            return Plain(subtitles.vtt(segments, done.result["duration"]), "text/vtt; charset=utf-8")
        case "verbose_json":
            return _verbose(spec, heard, text, done)
    answer = {"text": text, "usage": done.usage}
    return answer | {"logprobs": _logprobs(heard)} if _with_logprobs(spec) else answer


class Stream:
    """Server-sent events as OpenAI's `TranscriptionStreamEvent`; those of segments with `verbose_json`."""

    def __init__(self, spec: JobSpec) -> None:
        self._with_segments = spec.params.get("response_format") == "verbose_json"
        self._with_logprobs = _with_logprobs(spec)
        self._passages = Passages()
        self._heard: list[Passage] = []
        self._text = ""
        self._segments = 0

    def delta(self, event: Delta) -> list[dict]:
        passage = passage_of(event)
        ready = self._passages.add(passage)[1] if passage else []
        self._heard += ready
        self._text += event.text
        frames = []
        if event.text:
            frames.append({"type": "transcript.text.delta", "delta": event.text} | self._logprobs(ready))
        if self._with_segments:
            frames += [self._segment(each) for passage in ready for each in _segments(passage)]
        return frames

    def done(self, event: Done) -> list[dict]:
        frame = {"type": "transcript.text.done", "text": self._text, "usage": event.usage}
        return [frame | self._logprobs(self._heard)]

    def _logprobs(self, heard: list[Passage]) -> dict:
        return {"logprobs": _logprobs(heard)} if self._with_logprobs else {}

    def _segment(self, segment: Segment) -> dict:
        number, self._segments = self._segments, self._segments + 1
        return {
            "type": "transcript.text.segment",
            "id": f"seg_{number}",
            "start": _seconds(segment.start),
            "end": _seconds(segment.end),
            "text": segment.text,
            "speaker": "",  # who speaks is not told apart, but OpenAI's type wants a string
        }


def _with_logprobs(spec: JobSpec) -> bool:
    return "logprobs" in (spec.params.get("include") or ())


def _text(heard: list[Passage]) -> str:
    whole = Passages()
    for passage in heard:
        whole.add(passage)
    return whole.text


def _logprobs(heard: list[Passage]) -> list[dict]:
    return [msgspec.to_builtins(each) for passage in heard for each in passage.logprobs or ()]


def _segments(passage: Passage) -> list[Segment]:
    """The segments, kept within their passage and with an end not before the start."""
    return [_within(segment, passage.start, passage.end) for segment in passage.segments]


def _within(timed: Any, start: float, end: float) -> Any:
    begun = min(max(timed.start, start), end)
    return msgspec.structs.replace(timed, start=begun, end=min(max(timed.end, begun), end))


def _verbose(spec: JobSpec, heard: list[Passage], text: str, done: Done) -> dict:
    """OpenAI's `TranscriptionVerbose`, and how long the work took."""
    translated = spec.task == "translation"
    asked = spec.params.get("timestamp_granularities") or ["segment"]
    result = done.result
    duration, took = result["duration"], result["processing_time"]
    answer = {
        "task": "translate" if translated else "transcribe",
        "language": "english" if translated else result["language"],
        "duration": _seconds(duration),
        "text": text,
    }
    timed = [(passage, segment) for passage in heard for segment in _segments(passage)]
    if "segment" in asked:
        answer["segments"] = [_segment(number, *each) for number, each in enumerate(timed)]
    if "word" in asked:
        answer["words"] = [_word(word, segment) for _, segment in timed for word in segment.words or ()]
    return answer | {
        "usage": done.usage,
        "processing_time": took,
        "realtime_factor": round(took / duration, 4) if duration else None,
    }


def _segment(number: int, passage: Passage, segment: Segment) -> dict:
    return {
        "id": number,
        "seek": round(passage.start * 100),  # OpenAI's are in frames of 10 ms
        "start": _seconds(segment.start),
        "end": _seconds(segment.end),
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def _word(word: Word, segment: Segment) -> dict:
    kept = _within(word, segment.start, segment.end)
    return {"word": kept.word.strip(), "start": _seconds(kept.start), "end": _seconds(kept.end)}


def _seconds(time: float) -> float:
    return round(time, 3)
