"""Transcriptions and translations with the official client, as its users ask for them."""

import warnings
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import webvtt
from openai import OpenAI
from openai.types.audio import (
    Transcription,
    TranscriptionStreamEvent,
    TranscriptionVerbose,
    Translation,
    TranslationVerbose,
)
from pydantic import TypeAdapter

from tests.live import Live

FILE = ("a.wav", b"x" * 640_000)  # 20 s to the echo engine
SECONDS = 20


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with live.client as client:
        yield client


def transcribe(client: OpenAI, **fields: Any) -> Any:
    return client.audio.transcriptions.create(**{"model": "echo", "file": FILE} | fields)


def translate(client: OpenAI, **fields: Any) -> Any:
    with warnings.catch_warnings():  # OpenAI itself is about to give the endpoint up
        warnings.simplefilter("ignore", DeprecationWarning)
        return client.audio.translations.create(**{"model": "echo", "file": FILE} | fields)


def strictly(kind: Any, value: Any) -> None:
    """The client takes whatever comes; other languages' do not. What no model tells may be null."""
    TypeAdapter(kind).validate_python(value.to_dict(), strict=True)


def test_a_transcription(client: OpenAI) -> None:
    answer = transcribe(client)
    assert isinstance(answer, Transcription)
    assert answer.text.startswith("640000 bytes of")
    assert (answer.usage.type, answer.usage.seconds) == ("duration", SECONDS)
    strictly(Transcription, answer)


def test_a_transcription_as_text(client: OpenAI) -> None:
    assert transcribe(client, response_format="text") == transcribe(client).text + "\n"


@pytest.mark.parametrize("ask", [transcribe, translate])
def test_subtitles_have_every_word(client: OpenAI, ask: Any) -> None:
    text = transcribe(client).text
    subrip, web = (ask(client, response_format=format) for format in ("srt", "vtt"))
    captions = webvtt.from_string(web).captions

    assert " ".join(line for caption in captions for line in caption.lines) == text
    assert subrip.startswith("1\n00:00:00,000 --> 00:00:0")
    assert captions[-1].end_in_seconds <= SECONDS


def test_a_verbose_transcription_has_segments(client: OpenAI) -> None:
    answer = transcribe(client, response_format="verbose_json")

    assert isinstance(answer, TranscriptionVerbose)
    assert (answer.language, answer.duration, answer.words) == ("english", SECONDS, None)
    assert " ".join(segment.text for segment in answer.segments) == answer.text
    assert [segment.id for segment in answer.segments] == list(range(len(answer.segments)))
    assert answer.usage.seconds == SECONDS
    assert answer.realtime_factor == pytest.approx(answer.processing_time / SECONDS, abs=1e-3)


@pytest.mark.parametrize("granularities", [["word"], ["word", "segment"]])
def test_words_have_times(client: OpenAI, granularities: list) -> None:
    answer = transcribe(client, response_format="verbose_json", timestamp_granularities=granularities)

    assert " ".join(word.word for word in answer.words) == answer.text
    assert all(word.start < word.end <= SECONDS for word in answer.words)
    assert (answer.segments is None) == ("segment" not in granularities)
    if "segment" not in granularities:
        strictly(TranscriptionVerbose, answer)


def test_logprobs_are_included(client: OpenAI) -> None:
    answer = transcribe(client, include=["logprobs"])
    assert "".join(each.token for each in answer.logprobs) == answer.text.replace(" ", "")
    strictly(Transcription, answer)


@pytest.mark.parametrize(
    "strategy", ["auto", {"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 300}]
)
def test_a_chunking_strategy_may_be_chosen(client: OpenAI, strategy: Any) -> None:
    assert transcribe(client, chunking_strategy=strategy).text


@pytest.mark.parametrize("format", ["json", "text", "verbose_json"])
def test_a_stream_says_what_the_whole_answer_says(client: OpenAI, format: str) -> None:
    *events, last = transcribe(client, stream=True, response_format=format)
    kinds = {event.type for event in events}
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]

    assert last.type == "transcript.text.done"
    assert "".join(deltas) == last.text == transcribe(client).text
    assert last.usage.seconds == SECONDS
    assert ("transcript.text.segment" in kinds) == (format == "verbose_json")
    for event in events:
        strictly(TranscriptionStreamEvent, event)


def test_a_stream_has_logprobs_too(client: OpenAI) -> None:
    *events, last = transcribe(client, stream=True, include=["logprobs"])
    assert [each.token for event in events for each in event.logprobs] == last.text.split()
    assert len(last.logprobs) == len(last.text.split())


def test_segments_of_a_stream_are_in_order(client: OpenAI) -> None:
    events = transcribe(client, stream=True, response_format="verbose_json")
    segments = [event for event in events if event.type == "transcript.text.segment"]

    assert [segment.id for segment in segments] == [f"seg_{at}" for at in range(len(segments))]
    assert [segment.start for segment in segments] == sorted(segment.start for segment in segments)


def test_a_translation(client: OpenAI) -> None:
    answer, verbose = translate(client), translate(client, response_format="verbose_json")

    assert isinstance(answer, Translation) and isinstance(verbose, TranslationVerbose)
    assert answer.text == verbose.text == transcribe(client).text
    assert (verbose.language, verbose.task, verbose.duration) == ("english", "translate", SECONDS)
    assert len(verbose.segments) == len(answer.text.split())


def test_a_translation_as_text(client: OpenAI) -> None:
    assert translate(client, response_format="text") == translate(client).text + "\n"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"include": ["logprobs"], "response_format": "verbose_json"}, "include"),
        ({"stream": True, "response_format": "vtt"}, "stream"),
        ({"known_speaker_names": ["Ann"]}, "known_speaker_names"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 3}}, "chunking_strategy.threshold"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client: OpenAI, fields: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        transcribe(client, **fields)
    assert raised.value.param == param
