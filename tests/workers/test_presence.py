"""Who sees whose interactive requests and turns: real processes, and what is left of one that was killed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live import until
from tests.workers.neighbour import Neighbour
from workers.presence import FILE, Presence, Signal

REQUESTS, STEP, TURN = Signal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], Neighbour]]:
    others: list[Neighbour] = []

    def start() -> Neighbour:
        others.append(Neighbour(folder))
        return others[-1]

    yield start
    for other in others:
        other.kill()


def test_each_process_sees_the_others_requests_and_not_its_own(
    folder: Path, start: Callable[[], Neighbour]
) -> None:
    ours = Presence(folder)
    other = start()
    assert not other.sees(REQUESTS) and not ours.others(REQUESTS)
    other.show(REQUESTS, True)
    assert ours.others(REQUESTS) and not other.sees(REQUESTS)
    ours.show(REQUESTS, True)
    other.show(REQUESTS, False)
    assert other.sees(REQUESTS) and not ours.others(REQUESTS)


def test_turns_are_seen_apart_from_requests(folder: Path, start: Callable[[], Neighbour]) -> None:
    ours = Presence(folder)
    other = start()
    other.show(TURN, True)
    assert ours.others(TURN) and not ours.others(REQUESTS) and not other.sees(TURN)
    other.show(TURN, False)
    ours.show(TURN, True)
    assert other.sees(TURN) and not ours.others(TURN)


def test_what_a_killed_process_left_does_not_count(folder: Path, start: Callable[[], Neighbour]) -> None:
    ours = Presence(folder)
    well, killed = start(), start()
    killed.show(REQUESTS, True)
    killed.show(TURN, True)
    assert ours.others(REQUESTS) and well.sees(REQUESTS) and well.sees(TURN)
    killed.kill()
    assert not ours.others(TURN) and not ours.others(REQUESTS)
    assert not well.sees(REQUESTS) and not well.sees(TURN)


def test_a_new_process_begins_without_what_a_killed_one_left(
    folder: Path, start: Callable[[], Neighbour]
) -> None:
    killed = start()
    killed.show(REQUESTS, True)
    killed.show(TURN, True)
    killed.kill()
    ours = Presence(folder)
    newer = start()
    assert not newer.sees(REQUESTS) and not newer.sees(TURN) and not ours.others(REQUESTS)
    newer.show(REQUESTS, True)
    assert ours.others(REQUESTS) and not ours.others(TURN)


def test_the_file_is_nobody_elses(folder: Path) -> None:
    Presence(folder).show(REQUESTS, True)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600


def test_many_processes_have_a_place_each(folder: Path, start: Callable[[], Neighbour]) -> None:
    ours = Presence(folder)
    others = [start() for _ in range(4)]
    for other in others:
        other.show(REQUESTS, True)
    for other in others:
        assert ours.others(REQUESTS)
        other.show(REQUESTS, False)
    until(lambda: not ours.others(REQUESTS))
