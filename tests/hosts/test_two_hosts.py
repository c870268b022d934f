"""A second host joins, hears what it never had on its disk, is cut off, and nothing is lost."""

import subprocess
from pathlib import Path

from shared import keys
from shared.channel import END
from shared.events import Delta, Done, decode
from shared.transcript import passages
from tests.hosts.conftest import System, recording, transcript, until

JOBS = 10
BATCH = "rq:queue:echo/batch"


def words(system: System, job_id: str) -> list[Delta | Done]:
    entries = system.redis.xrange(keys.events(job_id))
    return [decode(fields[keys.FIELD]) for _, fields in entries if fields[keys.FIELD]]


def is_private(system: System, worker: subprocess.Popen) -> bool:
    """Whether no list of processes and no log has a worker's password, or the signature of a link."""
    seen = Path(f"/proc/{worker.pid}/cmdline").read_text()
    seen += system.log(system.studio, "worker") + system.log(system.mini, "api")
    return "ss-of-studio" not in seen and "signature=" not in seen


def test_a_host_that_is_cut_off_in_the_middle_of_ten_jobs_loses_none(system: System) -> None:
    system.start()
    joined = system.start_worker(system.studio)
    assert is_private(system, joined)

    # alone, it serves what lies on the other host's disk only
    until(lambda: system.hosts() == {"studio": 1})
    first = system.submit(recording(0))
    until(lambda: system.job(first, "status") == "finished")
    assert system.job(first, "worker_name") == "studio"
    assert system.text(first) == transcript(recording(0))
    blobs = system.homes["mini"] / "blobs"
    until(lambda: not list(blobs.glob("blob-*")), what="the audio of a job that has ended stays")
    assert not (system.homes["studio"] / "blobs").exists()

    system.start_worker(system.mini)
    until(lambda: system.hosts() == {"mini": 1, "studio": 1})
    contents = {system.submit(recording(number)): recording(number) for number in range(1, JOBS + 1)}

    def on_studio() -> list[str]:
        return [job_id for job_id in contents if system.job(job_id, "worker_name") == "studio"]

    until(lambda: sum(len(words(system, job_id)) > 2 for job_id in on_studio()) >= 2)
    taken = system.redis.lmove(BATCH, f"{BATCH}:intermediate").decode()  # as by studio, whose reply is lost
    system.studio.cable("down")
    cut_off = [job_id for job_id in on_studio() if system.job(job_id, "status") == "started"]
    assert cut_off and taken not in cut_off

    until(lambda: all(system.job(job_id, "status") == "finished" for job_id in contents), seconds=60)
    assert {system.job(job_id, "worker_name") for job_id in [*cut_off, taken]} == {"mini"}
    until(lambda: system.hosts() == {"mini": 1})
    for job_id, content in contents.items():
        *said, end = words(system, job_id)
        assert isinstance(end, Done)
        assert "".join(delta.text for delta in said) == transcript(content)
        assert [passage.index for passage in passages(said)] == list(range(len(said)))
        assert system.redis.xrevrange(keys.events(job_id), count=1)[0][0].decode() == f"{END[0]}-{END[1]}"
        assert system.text(job_id) == transcript(content)

    # what it goes on hearing is dropped, and it joins again
    before = {job_id: words(system, job_id) for job_id in contents}
    system.studio.cable("up")
    until(lambda: system.hosts() == {"mini": 1, "studio": 1}, seconds=60)
    until(lambda: not list((system.homes["studio"] / "fetched").iterdir()), what="fetched audio stays")
    assert {job_id: words(system, job_id) for job_id in contents} == before
    more = {system.submit(recording(number)): recording(number) for number in range(JOBS)}
    until(lambda: all(system.job(job_id, "status") == "finished" for job_id in more))
    assert {system.job(job_id, "worker_name") for job_id in more} == {"mini", "studio"}
    assert all(system.text(job_id) == transcript(content) for job_id, content in more.items())
    until(lambda: not list(blobs.glob("blob-*")))
    assert joined.poll() is None and is_private(system, joined)
    assert not system.redis.acl_log()
