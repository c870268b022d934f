"""When batch work rests, as the room asks before each of its steps."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import SettingsError, read_settings
from tests.live import ROOT, until
from workers.presence import Presence
from workers.priority import QUANTUM, Priority, join

BUSY = """
import sys
from pathlib import Path
from workers.presence import Presence

presence = Presence(Path(sys.argv[1]))
presence.show(True)
print("busy", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def presence(tmp_path: Path) -> Presence:
    return Presence(tmp_path)


@pytest.fixture
def busy(presence: Presence, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process with an interactive request."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"busy\n"
        yield other
        other.kill()


def test_batch_work_that_is_alone_never_rests(presence: Presence) -> None:
    priority = Priority(0, presence)
    presence.show(True)  # ours
    assert not priority.must_rest()
    priority.spend(100)
    assert not priority.must_rest()


def test_it_rests_while_another_process_has_a_request(presence: Presence, busy: subprocess.Popen) -> None:
    priority = Priority(0, presence)
    assert priority.must_rest() and priority.must_rest()
    busy.kill()
    busy.wait()
    until(lambda: not priority.must_rest())


def test_with_a_share_it_gets_a_quantum_now_and_then(presence: Presence, busy: subprocess.Popen) -> None:
    priority = Priority(0.5, presence)
    until(lambda: not priority.must_rest())
    priority.spend(QUANTUM / 2)
    assert not priority.must_rest()
    priority.spend(QUANTUM / 2)
    assert priority.must_rest()
    until(lambda: not priority.must_rest())


def test_a_step_begun_alone_is_followed_by_a_full_rest(presence: Presence, busy: subprocess.Popen) -> None:
    priority = Priority(0.01, presence)
    priority.spend(0.001)
    assert priority.must_rest()


@pytest.mark.parametrize("share", [1, 0.1])
def test_whoever_is_switched_off_or_in_a_hurry_does_not_rest(
    presence: Presence, busy: subprocess.Popen, share: float
) -> None:
    priority = Priority(share, presence)
    priority.hurry = share < 1
    priority.spend(1000)
    assert not priority.must_rest()


def test_what_cannot_be_shared_costs_no_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").write_text("no folder")
    priority = join(tmp_path, 0.1)
    priority.show(True)
    priority.spend(1)
    assert not priority.must_rest()
    assert "will not make way" in caplog.text


@pytest.mark.parametrize("value", ["-0.1", "1.1", "off"])
def test_a_share_that_is_none_is_refused_by_name(value: str) -> None:
    with pytest.raises(SettingsError, match="OMINIX_BATCH_SHARE"):
        read_settings({**os.environ, "OMINIX_BATCH_SHARE": value})
