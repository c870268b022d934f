"""Embeddings through the whole system, asked for with the official client."""

import base64
import concurrent.futures
import json
import re
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from tokenizers import Tokenizer

from shared.manifest import Manifest
from shared.settings import read_settings
from tests.engines.bert_in_numpy import Bert
from tests.system.conftest import System, until

pytestmark = pytest.mark.models

MODEL = "all-minilm-l6-v2"
WORDS = "river mountain engine kitchen library 東京 café garden harbour winter".split() * 5
TEXTS = [f"Text number {n} says {'something ' * (n % 7)}about the {word}." for n, word in enumerate(WORDS)]


@pytest.fixture(scope="module")
def folder() -> Path:
    return read_settings().models_dir / Manifest.load(read_settings().models_file).resolve(MODEL).id


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def embed(system: System, input: object, **fields: object) -> np.ndarray:
    """[inputs, dimensions]; the client asks for base64 unless `encoding_format` says otherwise."""
    answer = system.client.embeddings.create(**{"model": MODEL, "input": input} | fields)
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return np.array([each.embedding for each in answer.data])


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def test_fifty_texts_are_those_of_an_independent_forward_pass(
    system: System, folder: Path, tokenizer: Tokenizer
) -> None:
    reference = Bert(folder)
    expected = np.stack([reference.embed(tokenizer.encode(text).ids) for text in TEXTS])
    found = embed(system, TEXTS)
    assert found.shape == (50, 384)
    assert cosines(found, expected).min() >= 0.9999


def test_one_text_and_its_token_ids_have_one_vector(system: System, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(text).ids for text in TEXTS[:3]]
    expected = embed(system, TEXTS[:3])
    for found in (embed(system, ids), np.concatenate([embed(system, row) for row in ids])):
        assert cosines(found, expected).min() >= 0.9999
    assert cosines(embed(system, TEXTS[0]), expected[:1]).min() >= 0.9999


def test_both_encodings_have_the_same_values_and_usage(system: System, tokenizer: Tokenizer) -> None:
    body = {"model": "all-MiniLM-L6-v2", "input": TEXTS[:5]}
    raw = httpx.post(f"{system.url}/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    plain = httpx.post(f"{system.url}/v1/embeddings", json=body).json()
    for packed, listed in zip(raw["data"], plain["data"], strict=True):
        values = np.frombuffer(base64.b64decode(packed["embedding"]), "<f4")
        assert cosines(values, np.array(listed["embedding"])) >= 0.9999
        assert (packed["object"], packed["index"]) == (listed["object"], listed["index"])
    tokens = sum(len(tokenizer.encode(text).ids) for text in TEXTS[:5])
    assert raw["usage"] == plain["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (raw["object"], raw["model"]) == ("list", MODEL)
    assert embed(system, TEXTS[0], encoding_format="float").shape == (1, 384)


def test_dimensions_are_cut_and_scaled_to_length_one(system: System) -> None:
    whole, cut = embed(system, TEXTS[:4]), embed(system, TEXTS[:4], dimensions=100)
    assert cut.shape == (4, 100)
    assert np.allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-5)
    assert cosines(cut, whole[:, :100]).min() >= 0.9999


@pytest.mark.parametrize(
    ("fields", "kind", "code", "param", "words"),
    [
        ({"input": ""}, openai.BadRequestError, "invalid_value", "input", "empty"),
        ({"input": []}, openai.BadRequestError, "invalid_value", "input", "empty"),
        ({"input": ["a", ""]}, openai.BadRequestError, "invalid_value", "input", r"input\[1\]"),
        ({"input": ["a"] * 2049}, openai.BadRequestError, "invalid_value", "input", "2048"),
        ({"input": "a " * 600}, openai.BadRequestError, "context_length_exceeded", "input", "512.* 602"),
        ({"input": [99999]}, openai.BadRequestError, "invalid_value", "input", "99999.* 30521"),
        ({"dimensions": 385}, openai.BadRequestError, "invalid_value", "dimensions", "384.* 385"),
        ({"encoding_format": "int8"}, openai.BadRequestError, "invalid_value", "encoding_format", "int8"),
        ({"model": "smollm2-135m"}, openai.APIStatusError, None, "model", "smollm2"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name_and_the_worker_lives_on(
    system: System, fields: dict, kind: type, code: str | None, param: str, words: str
) -> None:
    worker = system.part("worker", MODEL).pid
    with pytest.raises(kind, match=words) as refused:
        system.client.embeddings.create(**{"model": MODEL, "input": "a"} | fields)
    assert refused.value.param == param and code in (None, refused.value.code)
    assert system.part("worker", MODEL).pid == worker


def test_many_clients_at_once_get_each_their_own(system: System) -> None:
    expected = embed(system, TEXTS)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = np.concatenate(list(pool.map(lambda text: embed(system, text), TEXTS)))
    assert cosines(found, expected).min() >= 0.9999


def test_a_job_is_answered_by_its_id_as_often_as_one_likes(system: System) -> None:
    asked = {"model": MODEL, "input": TEXTS}
    headers = {"prefer": "respond-async"}
    made = httpx.post(f"{system.url}/v1/embeddings", json=asked, headers=headers)
    assert made.status_code == 202
    job = f"{system.url}/v1/jobs/{made.json()['id']}"
    until(lambda: httpx.get(job).json()["status"] == "completed")

    first, second = (httpx.get(f"{job}/result").json() for _ in range(2))

    assert first == second
    found = np.array([each["embedding"] for each in first["data"]])
    assert cosines(found, embed(system, TEXTS)).min() >= 0.9999
    assert httpx.get(job).json()["usage"] == first["usage"]
    body = {"endpoint": "/v1/embeddings", "body": {"model": MODEL, "input": "a", "dimensions": 3}}
    assert httpx.post(f"{system.url}/v1/jobs", json=body).status_code == 202


def test_a_large_job_goes_on_where_its_worker_died(system: System) -> None:
    texts = [f"{text} ({n})" for n, text in enumerate(TEXTS * 12)]
    body = {"endpoint": "/v1/embeddings", "body": {"model": MODEL, "input": texts}}
    job = f"{system.url}/v1/jobs/{httpx.post(f'{system.url}/v1/jobs', json=body).json()['id']}"
    until(lambda: 0 < httpx.get(job).json()["progress"] < 1)
    system.part("worker", MODEL).kill()
    until(lambda: httpx.get(job).json()["status"] == "completed")

    found = np.array([each["embedding"] for each in httpx.get(f"{job}/result").json()["data"]])
    told = re.findall(r"^data: (.*)$", httpx.get(f"{job}/events").text, re.MULTILINE)
    vectors = [event["data"]["vectors"] for event in map(json.loads, told) if "data" in event]

    assert found.shape == (600, 384)
    assert sorted(index for each in vectors for index in each["indices"]) == list(range(600))
    assert max(map(len, told)) < 65_536
    assert cosines(found[::50], embed(system, texts[::50])).min() >= 0.9999
