"""The whole system on real models, driven as its users do."""

import concurrent.futures
import json
import re
import socket
from pathlib import Path

import httpx
import jiwer
import openai
import pytest

from tests.system.conftest import ROWS, System, until

pytestmark = pytest.mark.models

DATA = Path(__file__).parent.parent / "data"
TRANSCRIPTS = json.loads((DATA / "transcripts.json").read_text())
CLIP = DATA / "austen-0870.flac"
LLM = "smollm2-135m"
NEVER_ENDING = {"0": -100, "2": -100}  # its end tokens


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def ask(system: System, text: str, **fields: object) -> openai.types.chat.ChatCompletion:
    messages = [{"role": "user", "content": text}]
    fields = {"temperature": 0, "max_tokens": 24} | fields
    return system.client.chat.completions.create(model=LLM, messages=messages, **fields)


def transcribe(system: System) -> str:
    return system.client.audio.transcriptions.create(model="whisper-1", file=CLIP).text


def jobs(system: System, **query: str) -> list[dict]:
    return httpx.get(f"{system.url}/v1/jobs", params={"limit": 100} | query).json()["data"]


def test_the_official_client_chats_whole_and_streamed_and_hears_the_same(system: System) -> None:
    whole = ask(system, "What is the capital of France?")
    assert "Paris" in whole.choices[0].message.content
    chunks = list(
        ask(system, "What is the capital of France?", stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_speech_is_transcribed_at_once_and_as_a_job_that_can_be_read_twice(system: System) -> None:
    heard = transcribe(system)
    assert jiwer.wer(words(TRANSCRIPTS[CLIP.name]), words(heard)) <= 0.15
    form = {"endpoint": "/v1/audio/transcriptions", "model": "whisper-1"}
    with CLIP.open("rb") as file:
        made = httpx.post(f"{system.url}/v1/jobs", data=form, files={"file": file})
    assert made.status_code == 202
    job = f"{system.url}/v1/jobs/{made.json()['id']}"
    until(lambda: httpx.get(job).json()["status"] == "completed")
    first, second = (httpx.get(f"{job}/result").json() for _ in range(2))
    assert first == second and first["text"] == heard
    once, twice = (httpx.get(f"{job}/events", timeout=30).text for _ in range(2))
    assert once == twice and "event: done" in once


def test_greedy_output_is_the_same_alone_and_among_eight(system: System) -> None:
    prompts = [f"Write one sentence about the number {number}." for number in range(8)]
    alone = ask(system, prompts[3]).choices[0].message.content
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda prompt: ask(system, prompt).choices[0].message.content, prompts))
    assert together[3] == alone
    assert len(set(together)) > 1


def test_a_chat_sent_in_the_middle_starts_before_the_others_end(system: System) -> None:
    long = [ask(system, f"Count from {n} to 100.", stream=True, max_tokens=60) for n in range(4)]
    for stream in long:
        next(stream)
    late = ask(system, "Say hello.", stream=True)
    next(late)
    running = [job for job in jobs(system, status="in_progress", model=LLM)]
    for stream in [*long, late]:
        stream.close()
    assert len(running) == 5


def test_a_killed_worker_costs_the_begun_streams_and_nothing_else(system: System) -> None:
    endless = {"stream": True, "max_tokens": 400, "logit_bias": NEVER_ENDING}
    begun = [ask(system, f"Count from {n} to 500.", **endless) for n in range(ROWS)]
    for stream in begun:
        next(stream)
    pool = concurrent.futures.ThreadPoolExecutor(10)
    waiting = [pool.submit(ask, system, f"Name colour {n}.", max_tokens=8) for n in range(8)]
    until(lambda: len(jobs(system, status="queued", model=LLM)) == 8)
    speech = pool.submit(transcribe, system)
    until(lambda: jobs(system, status="in_progress", model="whisper-tiny.en"))
    system.part("worker", LLM).kill()
    for stream in begun:
        with pytest.raises(openai.APIError, match="worker died"):
            list(stream)
    assert speech.result() == transcribe(system)
    assert all(each.result().choices[0].message.content for each in waiting)


def test_a_killed_api_loses_no_job_that_it_accepted(system: System) -> None:
    body = {"model": LLM, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 40}
    request = {"endpoint": "/v1/chat/completions", "body": body}
    job = httpx.post(f"{system.url}/v1/jobs", json=request).json()
    api = system.part("api")
    api.kill()
    api.wait()

    def result() -> httpx.Response | None:
        try:
            answer = httpx.get(f"{system.url}/v1/jobs/{job['id']}/result")
        except httpx.TransportError:
            return None
        return answer if answer.status_code == 200 else None

    assert until(result).json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_job_with_it(system: System, stream: bool) -> None:
    body = {"model": LLM, "max_tokens": 400, "stream": stream}
    body["messages"] = [{"role": "user", "content": "Count to 1000."}]
    content = json.dumps(body).encode()
    host, port = system.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + content)
        [job] = until(lambda: jobs(system, status="in_progress", model=LLM))
    until(lambda: httpx.get(f"{system.url}/v1/jobs/{job['id']}").json()["status"] == "cancelled")


BAD = [
    ("{not json", 400, "invalid_value", None),
    ({"model": LLM}, 400, "missing_required_parameter", "messages"),
    ({"model": "nobody", "messages": [{"role": "user", "content": "x"}]}, 404, "model_not_found", "model"),
    ({"max_tokens": -1}, 400, "invalid_value", "max_tokens"),
    ({"temperature": "hot"}, 400, "invalid_value", "temperature"),
    ({"messages": [{"role": "user", "content": "word " * 9000}]}, 400, "context_length_exceeded", "messages"),
    ({"messages": [{"role": "user", "content": "x" * 8_000_000}]}, 413, "payload_too_large", None),
]


@pytest.mark.parametrize(("body", "status", "code", "param"), BAD, ids=[f"{b[1]}-{b[2]}-{b[3]}" for b in BAD])
def test_bad_requests_are_refused_by_name_and_the_worker_lives_on(
    system: System, body: object, status: int, code: str, param: str | None
) -> None:
    worker = system.part("worker", LLM).pid
    if isinstance(body, dict) and "model" not in body:
        body = {"model": LLM, "messages": [{"role": "user", "content": "x"}]} | body
    content = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{system.url}/v1/chat/completions", content=content, headers=headers, timeout=30)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["message"] and error["type"] == "invalid_request_error"
    assert system.part("worker", LLM).pid == worker


@pytest.mark.parametrize("content", [b"This is text and not audio.\n" * 50, b""], ids=["text", "empty"])
def test_what_is_not_audio_is_refused_and_the_worker_lives_on(system: System, content: bytes) -> None:
    worker = system.part("worker", "whisper-tiny.en").pid
    with pytest.raises(openai.BadRequestError) as caught:
        system.client.audio.transcriptions.create(model="whisper-1", file=("a.wav", content))
    assert (caught.value.code, caught.value.param) == ("invalid_audio", "file")
    assert system.part("worker", "whisper-tiny.en").pid == worker
