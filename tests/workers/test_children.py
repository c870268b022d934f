"""A child: started, ended, started again, ever more slowly."""

import sys
from collections.abc import Callable

import psutil

from workers.bookkeeping import fare
from workers.children import Backoff, Child, describe
from workers.signals import Signals

HASTY = Backoff(first=0.0, cap=0.0)


def child(code: str, lines: list[str] | None = None, **options: object) -> Child:
    kept = [] if lines is None else lines
    return Child("it", [sys.executable, "-c", code], {}, log=lambda _, line: kept.append(line), **options)


def wait(claim: Callable[[], object]) -> object:
    """What `claim` says once it says something; a child's death ends each pause."""
    with Signals() as signals:
        for _ in range(200):
            if (said := claim()) is not None:
                return said
            signals.wait(0.1)
    raise AssertionError("it never came")


def test_pauses_double_up_to_the_cap():
    backoff = Backoff(first=0.1, cap=30.0)
    assert [backoff.delay(n) for n in (1, 2, 3, 8, 9, 10, 10_000)] == [0.1, 0.2, 0.4, 12.8, 25.6, 30, 30]


def test_an_end_is_noticed_once_with_its_status():
    it = child("raise SystemExit(3)")
    it.start()
    assert wait(it.ended) == 3
    assert it.ended() is None and not it.running


def test_quick_deaths_make_a_child_hopeless_and_a_long_life_forgives_them():
    it = child("pass", backoff=Backoff(first=0.0, cap=0.0, hopeless=2))
    for _ in range(2):
        it.start()
        wait(it.ended)
    assert it.hopeless
    it.backoff = Backoff(first=0.0, cap=0.0, hopeless=2, steady=0.0)
    it.start()
    wait(it.ended)
    assert it.failures == 1 and not it.hopeless


def test_the_last_line_that_it_printed_is_the_reason_of_its_death():
    lines: list[str] = []
    it = child("import sys; print('loading', flush=True); sys.exit('no such weights')", lines)
    it.start()
    wait(it.ended)
    wait(lambda: len(lines) == 2 or None)
    assert lines == ["loading", "no such weights"]
    assert it.last_words == "no such weights"


def test_a_command_that_is_not_there_is_a_death_too():
    it = Child("it", ["/no/such/program"], {}, backoff=HASTY)
    it.start()
    assert not it.running and it.failures == 1 and "cannot be started" in it.last_words


def test_each_start_of_a_worker_has_a_name_of_its_own():
    it = child("pass", model="echo")
    it.start()
    first = it.worker_name
    wait(it.ended)
    it.start()
    assert it.worker_name != first and it.worker_name.startswith("it-")
    wait(it.ended)


def test_killing_a_child_takes_along_what_it_started():
    lines: list[str] = []
    it = child(
        "import subprocess, sys, time\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(other.pid, flush=True); other.wait()",
        lines,
    )
    it.start()
    wait(lambda: lines or None)
    it.kill()
    assert wait(it.ended) == -9
    wait(lambda: is_gone(int(lines[0])) or None)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_an_exit_status_reads_as_words():
    assert describe(1) == "it ended with status 1"
    assert describe(-9) == "it was ended by SIGKILL"


def test_a_model_fares_as_its_best_replica():
    def worker(name: str, failures: int) -> Child:
        it = child("pass", model="echo")
        it.worker_name, it.failures, it.last_words = name, failures, "no weights"
        return it

    dead, young, well = worker("dead", 9), worker("young", 1), worker("well", 9)
    assert fare([dead], set()) == {"echo": "failed: no weights"}
    assert fare([dead, young], set()) == fare([young, dead], set()) == {"echo": "starting"}
    assert fare([dead, well, young], {"well"}) == {"echo": "running"}
