"""When batch work rests, as the room asks before each of its steps, and who waits for its turn to end."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import SettingsError, read_settings
from tests.live import until
from tests.workers.neighbour import Neighbour
from workers import priority as module
from workers.presence import Presence, Signal
from workers.priority import LONGEST, QUANTUM, Priority, join


@pytest.fixture
def presence(tmp_path: Path) -> Presence:
    return Presence(tmp_path)


@pytest.fixture
def other(presence: Presence, tmp_path: Path) -> Iterator[Neighbour]:
    other = Neighbour(tmp_path)
    yield other
    other.kill()


@pytest.fixture
def busy(other: Neighbour) -> Neighbour:
    """Another process with an interactive request."""
    other.show(Signal.REQUESTS, True)
    return other


def test_batch_work_that_is_alone_never_rests(presence: Presence) -> None:
    priority = Priority(0, presence)
    presence.show(Signal.REQUESTS, True)  # ours
    assert not priority.must_rest()
    priority.end(True, 100)
    assert not priority.must_rest()


def test_it_rests_while_another_process_has_a_request(presence: Presence, busy: Neighbour) -> None:
    priority = Priority(0, presence)
    assert priority.must_rest() and priority.must_rest()
    busy.kill()
    until(lambda: not priority.must_rest())


def test_with_a_share_it_gets_a_quantum_now_and_then(presence: Presence, busy: Neighbour) -> None:
    priority = Priority(0.5, presence)
    until(lambda: not priority.must_rest())
    priority.end(True, QUANTUM / 2)
    assert not priority.must_rest()
    priority.end(True, QUANTUM / 2)
    assert priority.must_rest()
    until(lambda: not priority.must_rest())


def test_a_step_begun_alone_is_followed_by_a_full_rest(presence: Presence, busy: Neighbour) -> None:
    priority = Priority(0.01, presence)
    priority.end(True, 0.001)
    assert priority.must_rest()


def test_a_step_that_took_for_ever_is_not_paid_for_ever(presence: Presence, busy: Neighbour) -> None:
    priority = Priority(0.9, presence)
    priority.end(True, 1000)
    until(lambda: not priority.must_rest())


@pytest.mark.parametrize("share", [1, 0.1])
def test_whoever_is_switched_off_or_in_a_hurry_does_not_rest(
    presence: Presence, busy: Neighbour, share: float
) -> None:
    priority = Priority(share, presence)
    priority.hurry = share < 1
    priority.end(True, LONGEST)
    assert not priority.must_rest()
    priority.begin(batch=True)
    assert not busy.sees(Signal.TURN)


def test_a_step_beside_others_requests_is_a_turn_and_one_that_is_alone_is_none(
    presence: Presence, busy: Neighbour
) -> None:
    priority = Priority(0.5, presence)
    until(lambda: not priority.must_rest())
    priority.begin(batch=True)
    assert busy.sees(Signal.TURN)
    priority.end(True, QUANTUM)
    assert not busy.sees(Signal.TURN)
    busy.show(Signal.REQUESTS, False)
    until(lambda: not priority.must_rest() and not turn(priority, busy))


def turn(priority: Priority, seen_by: Neighbour) -> bool:
    """Whether the next step of batch work is a turn."""
    priority.begin(batch=True)
    seen = seen_by.sees(Signal.TURN)
    priority.end(True, 0)
    return seen


def test_an_interactive_step_waits_for_the_end_of_a_turn(
    presence: Presence, other: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    priority = Priority(0.1, presence)
    other.show(Signal.TURN, True)
    step = threading.Thread(target=priority.begin, args=[False], daemon=True)
    step.start()
    step.join(0.2)
    assert step.is_alive()
    other.show(Signal.TURN, False)
    step.join(30)
    assert not step.is_alive()


def test_a_turn_begins_when_the_step_beside_it_has_ended(
    presence: Presence, busy: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    priority = Priority(0.5, presence)
    until(lambda: not priority.must_rest())
    busy.show(Signal.STEP, True)
    step = threading.Thread(target=priority.begin, args=[True], daemon=True)
    step.start()
    step.join(0.2)
    assert step.is_alive() and busy.sees(Signal.TURN)
    busy.show(Signal.STEP, False)
    step.join(30)
    assert not step.is_alive()


def test_an_interactive_step_is_shown_while_it_lasts(presence: Presence, other: Neighbour) -> None:
    priority = Priority(0.1, presence)
    priority.begin(batch=False)
    assert other.sees(Signal.STEP)
    priority.end(False, 0.1)
    assert not other.sees(Signal.STEP)


@pytest.mark.parametrize("how", ["nothing is left", "an interactive job joins"])
def test_a_turn_that_is_not_used_up_ends(presence: Presence, busy: Neighbour, how: str) -> None:
    priority = Priority(0.5, presence)
    until(lambda: not priority.must_rest())
    priority.begin(batch=True)
    priority.end(True, QUANTUM / 3)
    assert busy.sees(Signal.TURN)
    if how == "nothing is left":
        priority.leave()
    else:
        priority.begin(batch=False)
    assert not busy.sees(Signal.TURN)


def test_a_turn_that_does_not_end_is_waited_for_once(
    presence: Presence, other: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    priority = Priority(0.1, presence)
    other.show(Signal.TURN, True)
    priority.begin(batch=False)
    monkeypatch.setattr(module, "PATIENCE", 3600.0)
    priority.begin(batch=False)
    assert presence.others(Signal.TURN)


def test_what_cannot_be_shared_costs_no_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").write_text("no folder")
    priority = join(tmp_path, 0.1)
    priority.show(True)
    priority.begin(batch=True)
    priority.end(True, 1)
    priority.begin(batch=False)
    assert not priority.must_rest()
    assert "will not make way" in caplog.text


@pytest.mark.parametrize("value", ["-0.1", "1.1", "off"])
def test_a_share_that_is_none_is_refused_by_name(value: str) -> None:
    with pytest.raises(SettingsError, match="OMINIX_BATCH_SHARE"):
        read_settings({**os.environ, "OMINIX_BATCH_SHARE": value})
