"""What the echo engine says, word by word: one word is one token."""

import hashlib
import math
import os
import re
import time
from collections.abc import Iterable
from itertools import cycle, islice

import msgspec

from shared.errors import BadRequest
from shared.events import Delta, Done, Event
from shared.jobs import JobSpec
from shared.tasks import chat, transcription
from workers.answer import Answer, token_budget
from workers.engine import Output
from workers.engines.echo.script import Fault, Options, Script, script_of

WORD = re.compile(r"\s*\S+")
BYTES_PER_SECOND = 32_000  # a file counts as 16 kHz mono of 16 bits
CONTEXT_LENGTH = 131_072


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
    """Renders the words of a transcription."""

    def __init__(self, words: int, language: str, seconds: float) -> None:
        self._words, self._language, self._seconds = words, language, seconds
        self._text = ""
        self._said = 0

    def render(self, outputs: Iterable[Output]) -> list[Event]:
        outputs = list(outputs)
        text = "".join(output.payload for output in outputs)
        self._text += text
        self._said += len(outputs)
        said: list[Event] = [Delta(text, progress=self._said / self._words)] if text else []
        if outputs and outputs[-1].last:
            result = {"text": self._text, "language": self._language, "duration": self._seconds}
            said.append(Done(result, {"type": "duration", "seconds": math.ceil(self._seconds)}))
        return said


def prepare(spec: JobSpec, blob: str | None, options: Options, context_length: int | None) -> Job:
    """Raises BadRequest, or the Fault that was asked for."""
    script = script_of(spec, options)
    time.sleep(script.prepare_ms / 1000)
    if script.raise_in == "prepare":
        raise Fault("the script raises in prepare")
    if spec.task == "transcription":
        return _transcription(spec, blob, script)
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


def _transcription(spec: JobSpec, blob: str | None, script: Script) -> Job:
    request = msgspec.convert(spec.params, transcription.Request)
    if blob is None or not (size := os.path.getsize(blob)):
        raise BadRequest("The file is empty.", param="file", code="invalid_audio")
    with open(blob, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    groups = " ".join(digest[at : at + 4] for at in range(0, 64, 4))
    words = _repeat(WORD.findall(f"{size} bytes of {groups}"), script.tokens)
    voice = Speech(max(len(words), 1), request.language or "en", size / BYTES_PER_SECOND)
    return Job(script, words, "stop", voice)


def _text(message: chat.Message) -> str:
    content = message.content or ""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _repeat(words: list[str], length: int | None) -> list[str]:
    """`words` again and again up to `length` words, a space between two rounds."""
    if length is None or not words:
        return words
    first = words[0].lstrip()
    return [first, *islice(cycle([*words[1:], f" {first}"]), length - 1)] if length else []
