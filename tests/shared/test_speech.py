"""Transcription and translation: what is accepted, and what the answers and events are made of."""

import time
from typing import Any

import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done, decode, encode
from shared.jobs import JobSpec
from shared.speech.answer import Stream, body
from shared.tasks import Plain, transcription, translation
from shared.transcript import Passage, Segment, TokenLogprob, Word, of

DONE = Done(
    {"language": "english", "duration": 4.0, "chunks": 2, "processing_time": 0.5},
    {"type": "duration", "seconds": 4},
)
WORDS = [Word(" Hello", 0.1, 0.5, 0.9), Word(" there.", 0.5, 1.0)]
FIRST = Passage(0, 0.0, 2.0, "Hello there.", "en",
                [Segment(0.1, 1.0, " Hello there.", [1, 2], 0.0, -0.2, 1.1, 0.01, WORDS)],
                [TokenLogprob("Hello", [72], -0.1)])
SECOND = Passage(1, 2.0, 4.0, "Good bye.", "en",
                 [Segment(2.5, 4.7, "Good bye.")], [TokenLogprob("Bye", [66], -0.2)])
SAID = [Delta("Hello there.", data=of(FIRST)), Delta(" Good bye.", data=of(SECOND))]
EARLY = [Delta("", data=of(SECOND)), Delta("Hello there. Good bye.", data=of(FIRST))]


def spec(task: str = "transcription", **params: Any) -> JobSpec:
    return JobSpec(id="job-1", task=task, model="m", params=params, created=time.time(), timeout=1.0)


def form(**fields: Any) -> transcription.Request:
    return transcription.validate({"model": "m"} | fields, strict=False)


def events(said: list[Delta], **params: Any) -> list[dict]:
    stream = Stream(spec(**params))
    return [frame for delta in said for frame in stream.delta(delta)] + stream.done(DONE)


def kinds(frames: list[dict]) -> list[str]:
    return [frame["type"].rpartition(".")[2] for frame in frames]


# --- requests


def test_a_form_s_strings_become_numbers_and_flags() -> None:
    request = form(temperature="0.5", stream="true")
    assert (request.temperature, request.stream) == (0.5, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp_granularities[]": ["word", "segment"]},
        {"timestamp_granularities": ["word", "segment"]},
        {"timestamp_granularities[0]": "word", "timestamp_granularities[1]": "segment"},
        {"timestamp_granularities": "word", "timestamp_granularities[]": ["segment"]},
    ],
)
def test_a_list_is_read_however_a_form_spells_it(fields: dict) -> None:
    request = form(response_format="verbose_json", **fields)
    assert request.timestamp_granularities == ["word", "segment"]


@pytest.mark.parametrize("name", ["include", "include[]"])
def test_json_may_spell_lists_as_forms_do(name: str) -> None:
    assert transcription.validate({"model": "m", name: ["logprobs"]}).include == ["logprobs"]


@pytest.mark.parametrize(
    "fields",
    [
        {"chunking_strategy": '{"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 200}'},
        {
            "chunking_strategy[type]": "server_vad",
            "chunking_strategy[threshold]": "0.5",
            "chunking_strategy[silence_duration_ms]": "200",
        },
    ],
)
def test_a_chunking_strategy_is_read_however_a_form_spells_it(fields: dict) -> None:
    found = form(**fields).chunking_strategy
    assert (found.type, found.threshold, found.silence_duration_ms) == ("server_vad", 0.5, 200)
    assert form(chunking_strategy="auto").chunking_strategy == "auto"


@pytest.mark.parametrize("task", [transcription, translation])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": 1.5}, "temperature"),
        ({"language": ""}, "language"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"timestamp_granularities": ["line"], "response_format": "verbose_json"}, "timestamp_granularities"),
        ({"include": ["logprobs"], "response_format": "text"}, "include"),
        ({"include": ["usage"]}, "include"),
        ({"include": "logprobs"}, "include"),
        ({"chunking_strategy": "manual"}, "chunking_strategy"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 2}}, "chunking_strategy"),
        ({"chunking_strategy": {"threshold": 0.2}}, "chunking_strategy"),
        ({"stream": True, "response_format": "srt"}, "stream"),
        ({"stream": True, "response_format": "vtt"}, "stream"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"known_speaker_names[]": ["Ann"]}, "known_speaker_names"),
        ({"known_speaker_references": ["data:"]}, "known_speaker_references"),
        ({"languages": ["en", "de"]}, "languages"),
        ({"webhook_url": "http://a"}, "webhook_url"),
    ],
)
def test_what_cannot_be_honoured_is_a_400_that_names_the_field(task: Any, fields: dict, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        task.validate({"model": "m"} | fields)
    assert caught.value.param.startswith(param)


@pytest.mark.parametrize(
    "fields",
    [{"chunking_strategy": "{"}, {"chunking_strategy": "auto", "chunking_strategy[type]": "server_vad"}],
)
def test_a_form_s_broken_object_is_named(fields: dict) -> None:
    with pytest.raises(BadRequest) as caught:
        form(**fields)
    assert caught.value.param == "chunking_strategy"


@pytest.mark.parametrize(
    ("tier", "detached", "lane"),
    [
        (None, False, "interactive"),
        ("auto", False, "interactive"),
        ("flex", False, "batch"),
        (None, True, "batch"),
        ("auto", True, "batch"),
        ("flex", True, "batch"),
        ("default", True, "interactive"),
        ("priority", True, "interactive"),
    ],
)
def test_jobs_wait_behind_those_who_wait_unless_told_otherwise(tier: Any, detached: bool, lane: str) -> None:
    assert transcription.lane(form(service_tier=tier), detached) == lane


# --- answers


def test_json_is_text_and_usage() -> None:
    assert body(spec(), SAID, DONE) == {"text": "Hello there. Good bye.", "usage": DONE.usage}


def test_logprobs_are_those_of_all_passages_in_order() -> None:
    tokens = body(spec(include=["logprobs"]), EARLY, DONE)["logprobs"]
    assert tokens == [{"token": "Hello", "bytes": [72], "logprob": -0.1},
                      {"token": "Bye", "bytes": [66], "logprob": -0.2}]


@pytest.mark.parametrize(
    ("format", "begins", "content_type"),
    [
        ("text", "Hello there. Good bye.\n", "text/plain; charset=utf-8"),
        ("srt", "1\n00:00:00,100 --> 00:00:01,000\nHello there.\n", "application/x-subrip; charset=utf-8"),
        ("vtt", "WEBVTT\n\n00:00:00.100 --> 00:00:01.000\nHello there.\n\n", "text/vtt; charset=utf-8"),
    ],
)
def test_formats_for_people_are_plain_text(format: str, begins: str, content_type: str) -> None:
    answer = body(spec(response_format=format), EARLY, DONE)
    assert isinstance(answer, Plain)
    assert answer.text.startswith(begins)
    assert answer.content_type == content_type


def test_verbose_json_has_segments_and_what_the_work_took() -> None:
    answer = body(spec(response_format="verbose_json"), SAID, DONE)
    first, second = answer.pop("segments")

    assert answer == {
        "task": "transcribe", "language": "english", "duration": 4.0, "text": "Hello there. Good bye.",
        "usage": DONE.usage, "processing_time": 0.5, "realtime_factor": 0.125,
    }
    assert first == {
        "id": 0, "seek": 0, "start": 0.1, "end": 1.0, "text": " Hello there.", "tokens": [1, 2],
        "temperature": 0.0, "avg_logprob": -0.2, "compression_ratio": 1.1, "no_speech_prob": 0.01,
    }
    assert (second["id"], second["seek"], second["avg_logprob"]) == (1, 200, None)
    assert second["end"] == 4.0  # not beyond its passage


@pytest.mark.parametrize(
    ("asked", "there"),
    [(["word"], {"words"}), (["segment"], {"segments"}), (["word", "segment"], {"words", "segments"})],
)
def test_only_the_granularities_asked_for_are_there(asked: list, there: set) -> None:
    answer = body(spec(response_format="verbose_json", timestamp_granularities=asked), SAID, DONE)
    assert answer.keys() & {"words", "segments"} == there
    if "words" in there:
        assert answer["words"][0] == {"word": "Hello", "start": 0.1, "end": 0.5}


def test_a_translation_says_so() -> None:
    german = Done(DONE.result | {"language": "german"}, DONE.usage)
    answer = body(spec("translation", response_format="verbose_json"), SAID, german)
    assert (answer["task"], answer["language"]) == ("translate", "english")


@pytest.mark.parametrize("format", ["json", "text", "srt", "vtt", "verbose_json"])
def test_silence_has_an_answer_in_every_format(format: str) -> None:
    silent = [Delta("", data=of(Passage(0, 0.0, 4.0, "")))]
    answer = body(spec(response_format=format), silent, DONE)
    text = answer.text if isinstance(answer, Plain) else answer["text"]
    assert text == {"text": "\n", "vtt": "WEBVTT\n\n"}.get(format, "")


# --- events


@pytest.mark.parametrize("said", [SAID, EARLY], ids=["in order", "early"])
@pytest.mark.parametrize("format", ["json", "text", "verbose_json"])
def test_the_deltas_of_a_stream_are_its_text(said: list[Delta], format: str) -> None:
    *frames, last = events(said, response_format=format)
    text = "".join(frame["delta"] for frame in frames if "delta" in frame)

    assert last == {"type": "transcript.text.done", "text": text, "usage": DONE.usage}
    assert text == "Hello there. Good bye."


def test_segments_come_in_order_with_verbose_json_and_only_then() -> None:
    frames = events(EARLY, response_format="verbose_json")
    segments = [frame for frame in frames if frame["type"].endswith("segment")]

    assert kinds(frames) == ["delta", "segment", "segment", "done"]
    assert segments[1] == {"type": "transcript.text.segment", "id": "seg_1", "start": 2.5, "end": 4.0,
                           "text": "Good bye.", "speaker": ""}
    assert kinds(events(SAID)) == ["delta", "delta", "done"]


def test_logprobs_come_with_their_text_and_all_at_the_end() -> None:
    first, second, last = events(SAID, include=["logprobs"])
    assert [each["token"] for each in first["logprobs"]] == ["Hello"]
    assert last["logprobs"] == first["logprobs"] + second["logprobs"]


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf")])
def test_a_logprob_that_is_no_number_in_json_is_openais_least(logprob: float) -> None:
    passage = Passage(0, 0.0, 1.0, "!", logprobs=[TokenLogprob.of("!", b"!", logprob)])
    said = [decode(encode(Delta("!", data=of(passage))))]
    assert body(spec(include=["logprobs"]), said, DONE)["logprobs"][0]["logprob"] == -9999.0
