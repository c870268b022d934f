"""Who sees whose interactive requests: real processes, and what is left of one that was killed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live import until
from workers.presence import FILE, Presence

ROOT = Path(__file__).parents[2]
OTHER = """
import sys
from pathlib import Path
from workers.presence import Presence

presence = Presence(Path(sys.argv[1]))
print(presence.others(), flush=True)
for line in sys.stdin:
    presence.show(line == "busy\\n")
    print(presence.others(), flush=True)
"""


class Other:
    """Another process of the same home. Each of its answers says whether it sees somebody busy."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(folder)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.saw = self._hear()

    def show(self, busy: bool) -> bool:
        self.process.stdin.write("busy\n" if busy else "idle\n")
        self.process.stdin.flush()
        return self._hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def _hear(self) -> bool:
        return {"True\n": True, "False\n": False}[self.process.stdout.readline()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Other]]:
    others: list[Other] = []

    def start() -> Other:
        others.append(Other(folder))
        return others[-1]

    yield start
    for other in others:
        other.kill()


def test_each_process_sees_the_others_requests_and_not_its_own(
    folder: Path, start: Callable[[], Other]
) -> None:
    ours = Presence(folder)
    other = start()
    assert not other.saw and not ours.others()
    assert not other.show(True)
    assert ours.others()
    ours.show(True)
    assert other.show(False)
    assert not ours.others()


def test_what_a_killed_process_left_does_not_count(folder: Path, start: Callable[[], Other]) -> None:
    ours = Presence(folder)
    well, killed = start(), start()
    killed.show(True)
    assert ours.others() and well.show(False)
    killed.kill()
    assert not ours.others() and not well.show(False)


def test_a_new_process_begins_without_what_a_killed_one_left(
    folder: Path, start: Callable[[], Other]
) -> None:
    killed = start()
    killed.show(True)
    killed.kill()
    ours = Presence(folder)
    newer = start()
    assert not newer.saw and not ours.others()
    newer.show(True)
    assert ours.others()


def test_the_file_is_nobody_elses(folder: Path) -> None:
    Presence(folder).show(True)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600


def test_many_processes_have_a_place_each(folder: Path, start: Callable[[], Other]) -> None:
    ours = Presence(folder)
    others = [start() for _ in range(4)]
    for other in others:
        other.show(True)
    for other in others:
        assert ours.others()
        other.show(False)
    until(lambda: not ours.others())
