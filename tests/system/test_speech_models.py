"""Other speech models behind the service, each by its line in the manifest: small ones of random weights, in
their real layouts, one of which is made to say a sentence."""

import warnings
from pathlib import Path

import httpx
import openai
import pysubs2
import pytest

from tests.system.conftest import System

pytestmark = pytest.mark.models

CLIP = Path(__file__).parent.parent / "data" / "austen-0890.flac"
SENTENCES = ["Hello world.", "Good morning!"]


def test_qwen3_asr_hears_a_language_and_with_an_aligner_when_words_are_said(system: System) -> None:
    heard = system.client.audio.transcriptions.create(
        model="qwen3-asr", file=CLIP, response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )  # fmt: skip
    assert (heard.text, heard.language) == (" ".join(SENTENCES), "english")
    assert [segment.text.strip() for segment in heard.segments] == SENTENCES
    assert [word.word for word in heard.words] == heard.text.split()
    times = [time for word in heard.words for time in (word.start, word.end)]
    assert times == sorted(times) and 0 <= times[0] <= times[-1] <= heard.duration

    subtitles = system.client.audio.transcriptions.create(model="qwen3-asr", file=CLIP, response_format="srt")
    lines = [line.plaintext for line in pysubs2.SSAFile.from_string(subtitles)]
    assert " ".join(lines).split() == heard.text.split()


def test_a_multilingual_whisper_translates_and_says_what_it_heard(system: System) -> None:
    heard = system.client.audio.transcriptions.create(
        model="many-languages", file=CLIP, response_format="verbose_json"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer clients', of an endpoint that people use
        english = system.client.audio.translations.create(
            model="many-languages", file=CLIP, response_format="verbose_json"
        )
    assert (heard.text, heard.language) == (" ".join(SENTENCES), "german")
    assert (english.text, english.language) == (" ".join(SENTENCES), "english")


def test_parakeet_tells_when_words_are_said(system: System) -> None:
    heard = system.client.audio.transcriptions.create(
        model="nemo", file=CLIP, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert heard.duration == pytest.approx(5.3, abs=0.01)
    assert all(0 <= word.start <= word.end <= heard.duration for word in heard.words)


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        ("translations", {"model": "qwen3-asr"}, "model"),
        ("transcriptions", {"model": "nemo", "include[]": "logprobs"}, "include"),
        ("transcriptions", {"model": "nemo", "prompt": "names"}, "prompt"),
        ("transcriptions", {"model": "qwen3-asr", "language": "xx"}, "language"),
    ],
)
def test_what_a_model_cannot_give_is_a_400_that_names_the_field(
    system: System, endpoint: str, fields: dict[str, str], param: str
) -> None:
    answer = httpx.post(
        f"{system.url}/v1/audio/{endpoint}", data=fields, files={"file": CLIP.read_bytes()}, timeout=60
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_service_says_which_of_its_models_hear(system: System) -> None:
    able = [
        model.id
        for model in system.client.models.list()
        if "/v1/audio/transcriptions" in model.model_extra["endpoints"]
    ]
    assert able == ["whisper-tiny.en", "qwen3-asr", "many-languages", "nemo"]
    with pytest.raises(openai.NotFoundError):
        system.client.audio.transcriptions.create(model="parrot", file=CLIP)
