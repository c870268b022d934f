"""What is refused before anything is started."""

import os
import socket
from pathlib import Path

import pytest

from workers import startup
from workers.startup import StartError, free_port, make_private, only_one


def test_a_second_supervisor_on_the_same_home_is_told_who_has_it(tmp_path: Path):
    with only_one(tmp_path):
        with pytest.raises(StartError, match=f"process {os.getpid()}"):
            with only_one(tmp_path):
                pass


def test_a_home_is_free_again_when_its_supervisor_has_ended(tmp_path: Path):
    with only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_a_port_in_use_is_refused_with_another_to_try(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(startup, "PORT_PATIENCE", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=f"--port {port + 1}"):
            free_port("127.0.0.1", port)


def test_port_zero_becomes_a_free_port():
    port = free_port("127.0.0.1", 0)
    assert port > 0
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_private_folder_is_for_its_owner_alone(tmp_path: Path):
    folder = tmp_path / "private"
    folder.mkdir(mode=0o755)
    assert make_private(folder).stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_a_private_folder_is_refused(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match="not a folder of yours"):
        make_private(tmp_path / "link")
