import asyncio
import hashlib
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from api.form import Form
from shared.blobs import BlobStore
from shared.errors import BadRequest, PayloadTooLarge
from tests.api.asking import SPEECH
from tests.live import Live, until

FILE = ("speech.wav", b"RIFF" * 1000, "audio/wav")
HEAD = b"--B\r\nContent-Disposition: form-data; name="
BODY = (
    HEAD + b'"model"\r\n\r\necho\r\n'
    + HEAD + b'"include[]"\r\n\r\na\r\n'
    + HEAD + b'"include[]"\r\n\r\nb\r\n'
    + HEAD + b'"file"; filename="a \xc3\xa4.wav"\r\nContent-Type: audio/wav\r\n\r\n\r\n--not the end\r\n'
    + b"--B--\r\n"
)


def blobs(live: Live) -> set[Path]:
    return set(live.settings.blobs_dir.glob("blob-*"))


def parse(tmp_path: Path, body: bytes, step: int, limit: int = 1000) -> Form:
    form = Form(b"B", BlobStore(tmp_path), limit)
    with form.discarded_on_error():
        for at in range(0, len(body), step):
            form.feed(body[at : at + step])
        asyncio.run(form.finish())
    return form


@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
def test_a_form_is_read_wherever_its_pieces_break(tmp_path: Path, step: int) -> None:
    form = parse(tmp_path, BODY, step)

    assert form.fields == {"model": "echo", "include[]": ["a", "b"]}
    assert form.filename == "a ä.wav"
    assert BlobStore(tmp_path).path(form.blob.key).read_bytes() == b"\r\n--not the end"


@pytest.mark.parametrize(
    "body",
    [BODY[:-6], BODY.replace(b"name=", b"nome="), BODY[:-7] + HEAD + b'"file"\r\n\r\nx\r\n--B--', b"junk"],
    ids=["cut off", "without names", "two files", "no form"],
)
def test_a_broken_form_leaves_nothing(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(tmp_path, body, 64)
    assert not list(tmp_path.iterdir())


def test_fields_have_a_limit_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(PayloadTooLarge):
        parse(tmp_path, BODY.replace(b"echo", b"e" * 2000), 64)


def test_a_file_reaches_the_engine_byte_by_byte(http: httpx.Client, live: Live) -> None:
    audio = bytes(range(256)) * 4096 * 7
    text = http.post(SPEECH, files={"file": audio}, data={"model": "echo"}).json()["text"]

    digest = hashlib.sha256(audio).hexdigest()
    assert text.replace(" ", "") == f"{len(audio)}bytesof{digest}"
    until(lambda: not blobs(live))


@pytest.mark.parametrize(
    ("files", "data", "status", "code", "param"),
    [
        ({"file": FILE}, {}, 400, "missing_required_parameter", "model"),
        ({"file": FILE}, {"model": "nope"}, 404, "model_not_found", "model"),
        ({"file": FILE}, {"model": "unserved"}, 503, "model_unavailable", None),
        ({"file": FILE}, {"model": "echo", "temperature": "7"}, 400, "invalid_value", "temperature"),
        ({"file": FILE}, {"model": "echo", "include[]": ["usage"]}, 400, "invalid_value", "include"),
        ({"file": FILE}, {"model": "echo", "keywords[]": ["a"]}, 400, "unsupported_value", "keywords"),
        ({"other": FILE}, {"model": "echo"}, 400, "missing_required_parameter", "file"),
        ({"file": ("a.wav", b"")}, {"model": "echo"}, 400, "invalid_audio", "file"),
        ({"file": b"a" * (9 << 20)}, {"model": "echo"}, 413, "payload_too_large", None),
    ],
)
def test_a_refused_upload_leaves_nothing(
    http: httpx.Client, live: Live, files: dict, data: dict, status: int, code: str, param: str | None
) -> None:
    answer = http.post(SPEECH, files=files, data=data)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], (error["param"] or "").partition("[")[0] or None) == (
        status, code, param
    )
    assert not blobs(live)


def test_a_field_that_comes_again_is_a_list(tmp_path: Path) -> None:
    again = HEAD + b'"model"\r\n\r\nlive\r\n'
    assert parse(tmp_path, again + BODY, 64).fields["model"] == ["live", "echo"]


@pytest.mark.parametrize("content_type", ["audio/wav", "video/mp4"])
def test_bare_audio_is_told_how_to_come(http: httpx.Client, content_type: str) -> None:
    answer = http.post(SPEECH, content=b"RIFF", headers={"content-type": content_type})
    assert answer.status_code == 400
    assert "multipart/form-data" in answer.json()["error"]["message"]


def test_text_is_answered_as_text(http: httpx.Client) -> None:
    answer = http.post(SPEECH, files={"file": FILE}, data={"model": "echo", "response_format": "text"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.startswith("4000 bytes of ")


def test_a_client_that_leaves_while_uploading_leaves_nothing(live: Live) -> None:
    url = urlsplit(live.url)
    head = (
        f"POST {SPEECH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
    )
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(head.encode() + HEAD + b'"file"; filename="a"\r\n\r\n' + b"a" * 2_000_000)
        until(lambda: blobs(live))

    until(lambda: not blobs(live))
