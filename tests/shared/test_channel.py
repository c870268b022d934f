"""Readers of event streams, over an in-memory Redis."""

import asyncio
from collections.abc import AsyncIterator

import fakeredis
import pytest

from shared import keys
from shared.channel import START, EventReader, batches, parse_id
from shared.events import Delta, Done, Event, encode

DONE = Done({"text": "ab"}, {})


@pytest.fixture
async def redis() -> AsyncIterator[fakeredis.FakeAsyncRedis]:
    async with fakeredis.FakeAsyncRedis() as redis:
        yield redis


@pytest.fixture
async def reader(redis) -> AsyncIterator[EventReader]:
    reader = EventReader(redis)
    await reader.start()
    yield reader
    await reader.stop()


async def say(redis, job_id: str, event: Event | None, entry_id: str) -> None:
    payload = encode(event) if event else b""
    await redis.xadd(keys.events(job_id), {keys.FIELD: payload}, id=entry_id)


async def begin(redis, job_id: str) -> None:
    await redis.xadd(keys.STARTED, {"j": job_id})


async def read(reader: EventReader, job_id: str, subscription) -> list[tuple[str, Event]]:
    async with asyncio.timeout(5):
        return [pair async for batch in batches(reader, job_id, subscription) for pair in batch]


async def test_a_reader_that_was_there_first_hears_everything(redis, reader) -> None:
    subscription = reader.expect("j")
    await begin(redis, "j")
    await say(redis, "j", Delta("a"), "1-1")
    await say(redis, "j", Delta("b"), "1-2")
    await say(redis, "j", DONE, keys.END_ID)
    heard = await read(reader, "j", subscription)
    assert heard == [("1-1", Delta("a")), ("1-2", Delta("b")), (keys.END_ID, DONE)]


async def test_a_late_reader_hears_the_same_as_an_early_one(redis, reader) -> None:
    early = reader.expect("j")
    await begin(redis, "j")
    await say(redis, "j", Delta("a"), "1-1")
    async with asyncio.timeout(5):
        await early.take()
    late = await reader.attach("j", START)
    await say(redis, "j", DONE, keys.END_ID)
    assert await read(reader, "j", late) == [("1-1", Delta("a")), (keys.END_ID, DONE)]
    assert await read(reader, "j", early) == [(keys.END_ID, DONE)]


async def test_a_reader_goes_on_from_the_id_it_names(redis, reader) -> None:
    await say(redis, "j", Delta("a"), "1-1")
    await say(redis, "j", Delta("b"), "1-2")
    await say(redis, "j", DONE, keys.END_ID)
    heard = await read(reader, "j", await reader.attach("j", parse_id("1-1")))
    assert [entry_id for entry_id, _ in heard] == ["1-2", keys.END_ID]


async def test_a_reader_that_has_the_end_already_hears_nothing(redis, reader) -> None:
    await say(redis, "j", DONE, keys.END_ID)
    assert await read(reader, "j", await reader.attach("j", parse_id(keys.END_ID))) == []


async def test_fences_are_not_heard(redis, reader) -> None:
    await say(redis, "j", None, "2-0")
    await say(redis, "j", Delta("a"), "3-1")
    await say(redis, "j", DONE, keys.END_ID)
    heard = await read(reader, "j", await reader.attach("j", START))
    assert [entry_id for entry_id, _ in heard] == ["3-1", keys.END_ID]


async def test_jobs_that_nobody_has_started_are_not_in_the_read(redis, reader) -> None:
    for number in range(50):
        reader.expect(f"j{number}")
    await begin(redis, "j7")
    async with asyncio.timeout(5):
        while not reader._positions:
            await asyncio.sleep(0)
    assert set(reader._positions) == {"j7"}


async def test_nothing_is_kept_of_a_reader_that_left(redis, reader) -> None:
    subscription = reader.expect("j")
    reader.detach("j", subscription)
    assert reader.readers("j") == 0 and not reader._subscriptions


async def test_an_event_that_cannot_be_read_silences_nobody(redis, reader) -> None:
    await redis.xadd(keys.events("j"), {keys.FIELD: b"{}"}, id="1-1")
    await say(redis, "j", DONE, keys.END_ID)
    assert await read(reader, "j", await reader.attach("j", START)) == [(keys.END_ID, DONE)]


@pytest.mark.parametrize("bad", ["", "x", "1-y", "-", "1--1", f"1-{2**64}"])
def test_what_is_not_an_id_is_refused(bad: str) -> None:
    with pytest.raises(ValueError):
        parse_id(bad)
