import json
import time
import zlib

import fakeredis
import pytest

from shared.jobs import JobSpec, new_job_id
from shared.queues import FUNCTION, ForgedJob, StrictJob, make_job, make_queue, restore_job

PROMPT = "a secret prompt"


@pytest.fixture
def redis() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


@pytest.fixture
def spec() -> JobSpec:
    params = {"messages": [{"role": "user", "content": PROMPT}]}
    return JobSpec(id=new_job_id(), task="chat", model="m", params=params, created=time.time(), timeout=5.0)


def stored(redis: fakeredis.FakeRedis, spec: JobSpec) -> dict[bytes, bytes]:
    make_queue("m", redis).enqueue_job(make_job(spec, 60, redis))
    return redis.hgetall(StrictJob.key_for(spec.id))


def test_a_job_comes_back_from_redis_with_the_spec_it_was_made_of(redis, spec) -> None:
    assert restore_job(spec.id, stored(redis, spec), redis).spec == spec


def test_nothing_a_client_sent_is_in_the_description(redis, spec) -> None:
    assert stored(redis, spec)[b"description"] == b"chat m"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"success_callback_name", b"os.getcwd"),
        (b"failure_callback_name", b"os.getcwd"),
        (b"stopped_callback_name", b"os.getcwd"),
        (b"webhooks", b'[{"url": "http://localhost/"}]'),
        (b"dependency_ids", b'["other"]'),
        (b"repeats_left", b"3"),
        (b"rate_limit_key", b"x"),
        (b"anything", b"new"),
    ],
)
def test_a_field_that_would_make_rq_do_something_is_refused(redis, spec, field, value) -> None:
    raw = stored(redis, spec) | {field: value}
    with pytest.raises(ForgedJob, match=field.decode()):
        restore_job(spec.id, raw, redis)


@pytest.mark.parametrize(
    "call",
    [
        ["os.system", None, ["true"], {}],
        [FUNCTION, "os.path", [{}], {}],
        [FUNCTION, None, [{}], {"x": 1}],
        [FUNCTION, None, [], {}],
        [FUNCTION, None, [{"id": "other"}], {}],
    ],
)
def test_any_other_call_is_refused(redis, spec, call) -> None:
    raw = stored(redis, spec) | {b"data": zlib.compress(json.dumps(call).encode())}
    with pytest.raises(ForgedJob):
        restore_job(spec.id, raw, redis)


@pytest.mark.parametrize("data", [b"", b"junk", zlib.compress(b"\x80\x04N.")])
def test_what_is_not_json_is_refused(redis, spec, data) -> None:
    with pytest.raises(ForgedJob):
        restore_job(spec.id, stored(redis, spec) | {b"data": data}, redis)


def test_a_job_that_has_gone_is_refused(redis, spec) -> None:
    with pytest.raises(ForgedJob):
        restore_job(spec.id, {}, redis)
