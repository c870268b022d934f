"""The embedded server, as a real process on its own socket."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shared.settings import Settings, read_settings
from workers import embedded, redis_state
from workers.startup import StartError


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = read_settings({}, home=tmp_path / "home")
    yield settings
    if live := redis_state.find_live(settings):
        os.kill(live.pid, signal.SIGKILL)


def start(settings: Settings, **environ: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cli", "redis"],
        env={**os.environ, "OMINIX_HOME": str(settings.home), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process


@pytest.fixture
def server(settings: Settings) -> Iterator[subprocess.Popen]:
    process = start(settings)
    assert redis_state.wait_until_up(settings, 20.0, lambda: process.poll() is None)
    yield process
    process.kill()
    process.communicate()


def test_what_was_written_is_there_after_a_kill(server: subprocess.Popen, settings: Settings):
    with redis_state.connect(settings) as client:
        client.set("job", "kept")
    server.kill()
    server.wait()
    again = start(settings)
    try:
        assert redis_state.wait_until_up(settings, 20.0)
        with redis_state.connect(settings) as client:
            assert client.get("job") == b"kept"
    finally:
        again.terminate()
        again.communicate()


def test_its_files_and_its_socket_are_private(server: subprocess.Popen, settings: Settings):
    folder = embedded.data_dir(settings)
    for path in (folder, *folder.rglob("*"), settings.redis_socket.parent, settings.redis_socket):
        assert path.stat().st_mode & 0o077 == 0, path


def test_it_listens_on_no_port_and_drops_nothing_when_full(server: subprocess.Popen, settings: Settings):
    with redis_state.connect(settings) as client:
        found = client.config_get("port", "maxmemory-policy", "appendonly", "appendfsync")
    assert found == {
        "port": "0",
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
    }


def test_a_second_server_on_the_same_data_is_refused(server: subprocess.Popen, settings: Settings):
    second = start(settings)
    said, _ = second.communicate()
    assert second.returncode == 1
    assert "already running" in said and "Traceback" not in said


def test_a_live_server_is_found_and_can_be_ended(server: subprocess.Popen, settings: Settings):
    live = redis_state.find_live(settings)
    assert live.pid == server.pid
    assert live.poll() is None
    live.terminate()
    server.wait()
    assert live.poll() is not None
    assert redis_state.find_live(settings) is None


def test_only_a_server_that_a_supervisor_started_counts_as_supervised(settings: Settings):
    for pid, expected in (("", False), (str(os.getpid()), True)):
        process = start(settings, **({"OMINIX_SUPERVISOR_PID": pid} if pid else {}))
        assert redis_state.wait_until_up(settings, 20.0)
        assert embedded.is_supervised(settings, process.pid) is expected
        process.terminate()
        process.communicate()


def test_a_file_cut_short_by_a_power_cut_is_loaded_up_to_there(server: subprocess.Popen, settings: Settings):
    with redis_state.connect(settings) as client:
        client.set("first", "kept")
        client.set("last", "lost")
        # a disk that is busy with the last fsync holds a write back for up to two seconds
        while client.execute_command("WAITAOF", 1, 0, 500)[0] < 1:
            continue
    server.kill()
    server.wait()
    (log,) = (embedded.data_dir(settings) / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 3)
    again = start(settings)
    try:
        assert redis_state.wait_until_up(settings, 20.0)
        with redis_state.connect(settings) as client:
            assert client.mget("first", "last") == [b"kept", None]
    finally:
        again.terminate()
        again.communicate()


def test_waiting_ends_when_it_is_told_to(settings: Settings):
    assert not redis_state.wait_until_up(settings, going_on=lambda: False)
    assert not redis_state.wait_until_up(settings, patience=0.0)


def test_a_socket_path_that_macos_would_refuse_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", f"/tmp/{'long' * 30}")
    with pytest.raises(StartError, match="too long; set TMPDIR"):
        embedded.command(read_settings({}, home=tmp_path))


def test_a_server_of_ones_own_is_warned_of_what_loses_jobs(server: subprocess.Popen, settings: Settings):
    own = read_settings({}, home=settings.home, redis_url=settings.redis)
    assert redis_state.check_external(own) == []
    with redis_state.connect(own) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
    policy, durability = redis_state.check_external(own)
    assert "noeviction" in policy and "lost" in durability


def test_a_password_is_never_shown():
    assert embedded.where(read_settings({"REDIS_URL": "rediss://me:secret@cache:6380/1"})) == "cache:6380"


@pytest.mark.parametrize("line", ["port 6379", "port\t0 6379", "tls-port 6380", "bind 0.0.0.0", "BIND *"])
def test_a_network_is_refused(settings: Settings, tmp_path: Path, line: str):
    conf = tmp_path / "redis.conf"
    conf.write_text(f"# of mine\n  {line}\n")
    with pytest.raises(StartError, match=r"redis.conf, line 2: .* its socket alone\. .* REDIS_URL"):
        embedded.command(msgspec.structs.replace(settings, redis_conf=conf))


def test_what_a_file_includes_opens_no_port_either(settings: Settings, tmp_path: Path):
    conf, included = tmp_path / "redis.conf", tmp_path / "more.conf"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    included.write_text(f"port {port}\n")
    conf.write_text(f"port 0\ninclude {included}\n")
    process = start(settings, OMINIX_REDIS_CONF=str(conf))
    try:
        assert redis_state.wait_until_up(settings, 20.0, lambda: process.poll() is None)
        with redis_state.connect(settings) as client:
            assert client.config_get("port") == {"port": "0"}
    finally:
        process.terminate()
        process.communicate()
