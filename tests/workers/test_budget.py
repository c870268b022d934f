"""What has to go for what is asked for."""

import pytest

from shared.manifest import ModelEntry
from workers.budget import PATIENCE, RESIDENCE, NeverFits, Tenant, decide, first_fitting, readable

NOW = 1000.0


def idle(model: str, size: int, since: float) -> Tenant:
    return Tenant(model=model, bytes=size, idle_since=since, loaded=1.0)


def busy(model: str, size: int, loaded: float = 1.0) -> Tenant:
    return Tenant(model=model, bytes=size, loaded=loaded)


def asked(need: int, *tenants: Tenant, waited: float = 0.0) -> list[str] | None:
    return decide(need, 100, tenants, waited, NOW)


def test_what_fits_beside_the_others_needs_nothing_to_go():
    assert asked(40, busy("a", 60)) == []


def test_the_least_recently_used_idle_model_goes_first_and_no_more_than_has_to():
    tenants = idle("new", 30, 900), idle("old", 30, 800), busy("busy", 30)
    assert asked(30, *tenants) == ["old"]
    assert asked(60, *tenants) == ["old", "new"]


def test_nothing_is_unloaded_as_long_as_that_would_not_be_enough():
    assert asked(90, idle("old", 30, 800), busy("busy", 60)) is None


def test_memory_that_is_about_to_be_free_is_waited_for():
    leaving = Tenant(model="gone", bytes=30, leaving=True)
    assert asked(30, leaving, idle("old", 60, 800)) is None
    assert asked(50, leaving, idle("old", 60, 800)) == ["old"]


def test_after_a_while_the_least_recently_loaded_busy_model_goes():
    tenants = busy("late", 50, NOW - RESIDENCE - 1), busy("early", 50, NOW - RESIDENCE - 2)
    assert asked(50, *tenants) is None
    assert asked(50, *tenants, waited=PATIENCE) == ["early"]


def test_a_busy_model_that_has_just_been_loaded_stays_for_a_moment_and_one_that_is_loading_too():
    assert asked(50, busy("a", 100, NOW - RESIDENCE / 2), waited=PATIENCE) is None
    assert asked(50, busy("a", 100, 0.0), waited=PATIENCE) is None


def test_an_idle_model_goes_before_a_busy_one_however_long_was_waited():
    tenants = busy("busy", 50), idle("idle", 50, 999)
    assert asked(50, *tenants, waited=PATIENCE) == ["idle"]


def test_what_is_larger_than_the_budget_never_fits():
    with pytest.raises(NeverFits):
        asked(101)


def test_what_does_not_fit_beside_pinned_models_never_does_and_they_are_named():
    pinned = Tenant(model="pinned", bytes=60, idle_since=1.0, fixed=True)
    with pytest.raises(NeverFits) as reason:
        asked(50, pinned, idle("old", 40, 1))
    assert reason.value.fixed == [pinned]
    assert asked(40, pinned, idle("old", 40, 1)) == ["old"]


def test_a_budget_that_is_overrun_already_frees_more_than_is_asked_for():
    assert asked(10, idle("a", 60, 1), idle("b", 60, 2)) == ["a"]
    assert asked(50, idle("a", 60, 1), idle("b", 60, 2)) == ["a", "b"]


def test_the_system_starts_with_what_fits_in_the_order_of_the_file_pinned_models_first():
    entries = [
        ModelEntry(id="first", engine="echo", replicas=2),
        ModelEntry(id="large", engine="echo"),
        ModelEntry(id="small", engine="echo"),
        ModelEntry(id="never", engine="echo", replicas=0),
        ModelEntry(id="pinned", engine="echo", pinned=True),
    ]
    needs = {"first": 20, "large": 60, "small": 20, "never": 1, "pinned": 30}
    replicas, left = first_fitting(entries, needs, 100)
    assert replicas == {"first": 2, "large": 0, "small": 1, "never": 0, "pinned": 1}
    assert left == ["large"]


def test_sizes_are_said_as_people_say_them():
    assert [readable(size) for size in (400 << 20, 3 << 30)] == ["400 MiB", "3.0 GiB"]
