"""What the steward's housekeeping makes of what it sees."""

import socket
from pathlib import Path

import fakeredis
import pytest

from shared import fleet, keys
from shared.management import STEWARD
from shared.manifest import Manifest, ModelEntry
from shared.queues import queue_key, queue_name
from shared.settings import Settings
from workers.steward.estate import Estate, Survey, Worker
from workers.steward.house import House

MIB = 1 << 20
MODELS = Manifest((ModelEntry(id="busy", engine="echo"), ModelEntry(id="idle", engine="echo")))


class Place:
    """A machine with 1,000 MiB for models, each of which has been given 100, and its housekeeping."""

    def __init__(self, home: Path) -> None:
        settings = Settings(home=home, memory_budget_mb=1000)
        self.redis = fakeredis.FakeRedis()
        self.estate = Estate(self.redis, settings, lambda: MODELS)
        self.house = House(self.estate, self.redis, settings)

    def look(self, now: float, *workers: Worker) -> None:
        self.house.tidy(
            Survey(
                now=now,
                host=socket.gethostname(),
                wanted={worker.model: fleet.wanted(1, 100 * MIB) for worker in workers},
                workers=list(workers),
                waiting={},
                supervised={STEWARD: "running"},
                left={},
                ready_since={},
            )
        )

    @property
    def recycled(self) -> set[bytes]:
        return self.redis.smembers(keys.RECYCLE)

    @property
    def asked(self) -> list[str]:
        """The jobs that were queued."""
        ids = self.redis.lrange(queue_key(queue_name(STEWARD, "interactive")), 0, -1)
        return [self.redis.hget(f"rq:job:{job_id.decode()}", "description").decode() for job_id in ids]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def worker(model: str, mib: int, idle: float = 0.0) -> Worker:
    return Worker(
        name=f"{model}-1",
        model=model,
        state="ready",
        host=socket.gethostname(),
        pid=1,
        memory=mib * MIB,
        peak=mib * MIB,
        share=100 * MIB,
        idle_since=idle,
        supervised=True,
    )


def test_somewhat_more_than_was_thought_is_no_reason_to_start_anew(place: Place):
    for now in (10.0, 11.5, 13.0):
        place.look(now, worker("busy", 120))
    assert not place.recycled


def test_what_grows_far_past_its_share_is_started_anew_at_the_second_look(place: Place):
    place.look(10.0, worker("busy", 130))
    place.look(11.5, worker("busy", 90))
    place.look(13.0, worker("busy", 130))
    assert not place.recycled
    place.look(14.5, worker("busy", 130))
    assert place.recycled == {b"busy-1"}


def test_when_all_is_taken_the_idle_go_before_anything_is_started_anew(place: Place):
    for now in (10.0, 11.5, 13.0):
        place.look(now, worker("busy", 120), worker("idle", 890, idle=5.0))
    assert len(place.asked) == 1 and "idle" in place.asked[0]
    assert b"busy-1" not in place.recycled


def test_when_all_is_taken_and_nobody_idle_what_is_past_its_share_is_started_anew(place: Place):
    for now in (10.0, 11.5):
        place.look(now, worker("busy", 120), worker("idle", 890))
    assert place.recycled == {b"busy-1", b"idle-1"}


@pytest.mark.parametrize(("seen", "need"), [(10, 64), (70, 70), (900, 80)])
def test_a_need_is_what_was_seen_but_no_leak(place: Place, seen: int, need: int):
    record = {"model": "busy", "state": "ready", "host": socket.gethostname(), "memory": seen * MIB, "pid": 1}
    place.redis.sadd(keys.WORKERS, "busy-1")
    place.redis.hset(keys.worker("busy-1"), mapping=record)
    place.estate.look()
    assert place.estate.need(MODELS.resolve("busy")) == need * MIB
