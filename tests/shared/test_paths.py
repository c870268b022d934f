"""Which files a request may name: below an open folder when all is resolved, or not at all."""

import os
from pathlib import Path

import pytest

from shared.errors import BadRequest, Forbidden, NotFound, OminixError
from shared.paths import allowed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An open folder with `a.wav` and `sub/b.wav`, beside a closed one with `secret.wav`."""
    (tmp_path / "open" / "sub").mkdir(parents=True)
    (tmp_path / "closed").mkdir()
    for name in ("open/a.wav", "open/sub/b.wav", "closed/secret.wav"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path / "open"


def refusal(path: object, *folders: Path) -> OminixError:
    with pytest.raises(OminixError) as caught:
        allowed(str(path), folders)
    assert caught.value.param == "file_path"
    return caught.value


@pytest.mark.parametrize("name", ["a.wav", "sub/b.wav", "sub/../a.wav", "./a.wav"])
def test_a_file_below_an_open_folder_is_found(folder: Path, name: str) -> None:
    assert allowed(f"{folder}/{name}", [folder.parent / "other", folder]).read_bytes() == b"x"


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "link.wav").symlink_to(folder / "a.wav")
    assert allowed(str(folder / "link.wav"), [folder]) == folder / "a.wav"


def test_the_folder_may_itself_be_a_link(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert allowed(str(link / "a.wav"), [link]) == folder / "a.wav"


@pytest.mark.parametrize("path", ["closed/secret.wav", "closed/none", "open/../closed/secret.wav", "open"])
def test_what_ends_elsewhere_is_forbidden_whether_it_is_there_or_not(folder: Path, path: str) -> None:
    error = refusal(folder.parent / path, folder / "sub")
    assert (type(error), error.code) == (Forbidden, "forbidden_path")
    assert "OMINIX_AUDIO_FOLDERS" in error.message


@pytest.mark.parametrize("target", ["secret.wav", "none.wav", "."])
def test_a_link_out_of_the_folder_is_forbidden(folder: Path, target: str) -> None:
    (folder / "link").symlink_to(folder.parent / "closed" / target)
    assert type(refusal(folder / "link", folder)) is Forbidden


def test_a_folder_whose_name_begins_alike_is_another(folder: Path) -> None:
    assert type(refusal(folder / "a.wav", folder.parent / "op")) is Forbidden


def test_without_an_open_folder_everything_is_forbidden(folder: Path) -> None:
    assert type(refusal(folder / "a.wav")) is Forbidden


@pytest.mark.parametrize("path", ["", "a.wav", "~/a.wav", "../a.wav", "file:///a.wav", "/a\0.wav"])
def test_a_path_must_be_absolute(folder: Path, path: str) -> None:
    assert type(refusal(path, folder)) is BadRequest


@pytest.mark.parametrize("name", ["none.wav", "a.wav/b", "x" * 300])
def test_a_file_that_is_not_there_is_not_found(folder: Path, name: str) -> None:
    assert type(refusal(folder / name, folder)) is NotFound


def test_a_link_to_itself_is_not_found(folder: Path) -> None:
    (folder / "loop").symlink_to(folder / "loop")
    assert type(refusal(folder / "loop", folder)) is NotFound


def test_a_folder_or_a_pipe_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert type(refusal(folder / "pipe", folder)) is BadRequest
    assert type(refusal(folder / "sub", folder)) is BadRequest
