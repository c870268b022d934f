"""What the echo engine says, word by word: one word is one token."""

import hashlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from itertools import count, cycle, islice

import msgspec

from shared.errors import BadRequest
from shared.events import Delta, Event
from shared.jobs import JobSpec
from shared.tasks import chat
from shared.transcript import Passage, Segment, TokenLogprob, Word
from workers.answer import Answer, token_budget
from workers.engine import Output
from workers.engines.echo.script import Fault, Options, Script, script_of
from workers.transcript import Ended, Transcript

WORD = re.compile(r"\s*\S+")
BYTES_PER_SECOND = 32_000  # a file counts as 16 kHz mono of 16 bits
CONTEXT_LENGTH = 131_072
SPEECH = ("transcription", "translation")


class Job(msgspec.Struct):
    """One job between `prepare` and its end."""

    script: Script
    words: list[str]
    finish_reason: str  # when all words are said
    voice: "Chat | Speech"
    said: int = 0

    def next(self) -> Output:
        """The next word. The last one comes with the end; an empty answer is an end without words."""
        word = self.words[self.said : self.said + 1]
        self.said += 1
        last = self.said >= len(self.words)
        return Output("".join(word), last)


class Chat:
    """Renders the words of a chat answer."""

    def __init__(self, prompt_tokens: int, stops: list[str], finish_reason: str) -> None:
        self._answer = Answer(prompt_tokens, stops)
        self._finish_reason = finish_reason

    def render(self, outputs: Iterable[Output]) -> list[Event]:
        for output in outputs:
            if output.payload:
                self._answer.add(output.payload)
            if output.last:
                self._answer.end(self._finish_reason)
        return self._answer.events()


class Speech:
    """Renders the words of a transcription: each is a passage of its own, of equal length."""

    def __init__(self, words: int, language: str, seconds: float, said: Sequence[Delta]) -> None:
        self._length = seconds / words
        self._ended = Ended(seconds, language)
        self._transcript = Transcript(seconds, said)
        self._next = self.heard

    @property
    def heard(self) -> int:
        """How many words an earlier attempt has said."""
        return next(index for index in count() if index not in self._transcript)

    def render(self, outputs: Iterable[Output]) -> list[Event]:
        events: list[Event] = []
        for output in outputs:
            if output.payload:
                events.append(self._transcript.hear(self._passage(output.payload.strip())))
            if output.last:
                events.append(self._transcript.end(self._ended))
        return events

    def _passage(self, word: str) -> Passage:
        index, self._next = self._next, self._next + 1
        start, end = index * self._length, (index + 1) * self._length
        segment = Segment(start, end, word, words=[Word(word, start, end, 1.0)])
        token = TokenLogprob(word, list(word.encode()), 0.0)
        return Passage(index, start, end, word, segments=[segment], logprobs=[token])


def prepare(
    spec: JobSpec, file: str | None, said: Sequence[Delta], options: Options, context_length: int | None
) -> Job:
    """Raises BadRequest, or the Fault that was asked for."""
    script = script_of(spec, options)
    time.sleep(script.prepare_ms / 1000)
    if script.raise_in == "prepare":
        raise Fault("the script raises in prepare")
    if spec.task in SPEECH:
        return _transcription(spec, file, said, script)
    return _chat(spec, script, context_length or CONTEXT_LENGTH)


def _chat(spec: JobSpec, script: Script, context_length: int) -> Job:
    request = msgspec.convert(spec.params, chat.Request)
    prompt_tokens = sum(len(WORD.findall(_text(message))) for message in request.messages)
    budget = token_budget(prompt_tokens, request.token_limit, context_length)
    users = [_text(message) for message in request.messages if message.role == "user"]
    words = _repeat(WORD.findall(users[-1] if users else ""), script.tokens)
    finish_reason = "length" if len(words) > budget else "stop"
    voice = Chat(prompt_tokens, request.stop_strings, finish_reason)
    return Job(script, words[:budget], finish_reason, voice)


def _transcription(spec: JobSpec, file: str | None, said: Sequence[Delta], script: Script) -> Job:
    if file is None or not (size := os.path.getsize(file)):
        raise BadRequest("The file is empty.", param="file", code="invalid_audio")
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    groups = " ".join(digest[at : at + 4] for at in range(0, 64, 4))
    words = _repeat(WORD.findall(f"{size} bytes of {groups}"), script.tokens)
    language = (spec.params.get("language") or "english").lower()
    voice = Speech(max(len(words), 1), language, size / BYTES_PER_SECOND, said)
    return Job(script, words, "stop", voice, said=voice.heard)


def _text(message: chat.Message) -> str:
    content = message.content or ""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _repeat(words: list[str], length: int | None) -> list[str]:
    """`words` again and again up to `length` words, a space between two rounds."""
    if length is None or not words:
        return words
    first = words[0].lstrip()
    return [first, *islice(cycle([*words[1:], f" {first}"]), length - 1)] if length else []
