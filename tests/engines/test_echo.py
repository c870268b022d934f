import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from shared.errors import BadRequest
from shared.events import Delta, Done
from shared.manifest import ModelEntry
from shared.transcript import passages
from tests.engines.drive import Drive, answer, chat, spec
from workers.engine import Engine
from workers.engines import echo
from workers.engines.echo.pace import Pace
from workers.engines.echo.script import Fault


def engine_with(**options: object) -> Engine:
    return echo.load(ModelEntry(id="echo", engine="echo", options=options), None)


def whole(done: Done) -> dict:
    """The only choice of an answer."""
    [choice] = done.result["choices"]
    return choice


def test_repeats_the_last_user_message_word_by_word(echo_engine: Engine) -> None:
    job, drive = chat("one  two\nthree"), Drive(echo_engine)
    drive.add(job)
    drive.run()
    assert [event.text for event in drive.events[job.id][:-1]] == ["one", "  two", "\nthree"]
    assert whole(drive.done(job)) == {"text": "one  two\nthree", "finish_reason": "stop"}


def test_a_script_sets_the_length_by_repeating(echo_engine: Engine) -> None:
    assert answer(echo_engine, chat("a b", echo={"tokens": 5})).result["choices"][0]["text"] == "a b a b a"
    assert answer(echo_engine, chat("a b", echo={"tokens": 0})).result["choices"][0]["text"] == ""


def test_options_are_the_script_of_a_request_without_one() -> None:
    engine = engine_with(tokens=3)
    assert answer(engine, chat("a")).result["choices"][0]["text"] == "a a a"
    assert answer(engine, chat("a", echo={"tokens": 1})).result["choices"][0]["text"] == "a"


def test_an_answer_without_words_ends_at_once(echo_engine: Engine) -> None:
    done = answer(echo_engine, chat(" "))
    assert whole(done) == {"text": "", "finish_reason": "stop"}
    assert done.usage["completion_tokens"] == 0


def test_a_script_fails_one_job_at_a_step(echo_engine: Engine) -> None:
    bad, good, drive = chat("a b c", echo={"fail_at": 3}), chat("a b c"), Drive(echo_engine)
    drive.add(bad, good)
    drive.run()
    assert drive.text(bad) == "a b"
    assert isinstance(drive.errors[bad.id], Fault)
    assert drive.text(good) == "a b c"


@pytest.mark.parametrize("place", ["prepare", "add", "step"])
def test_a_script_raises_where_a_bug_would(echo_engine: Engine, place: str) -> None:
    with pytest.raises(Fault, match=place):
        Drive(echo_engine).add(chat(echo={"raise_in": place}))
        echo_engine.step()


@pytest.mark.parametrize("script", ['{"tokens": -1}', '{"toks": 1}', "{", "3"])
def test_a_script_that_is_not_valid_is_refused(echo_engine: Engine, script: str) -> None:
    with pytest.raises(BadRequest) as refused:
        echo_engine.prepare(chat("a", metadata={"echo": script}), None)
    assert refused.value.param == "metadata"


def test_an_option_that_does_not_exist_is_refused_at_load() -> None:
    with pytest.raises(msgspec.ValidationError, match="step_msec"):
        engine_with(step_msec=3)


def test_a_script_ends_the_process() -> None:
    code = (
        "from tests.engines.drive import *; from workers.engines import echo; "
        "from shared.manifest import ModelEntry; "
        "drive = Drive(echo.load(ModelEntry(id='echo', engine='echo'), None)); "
        "drive.add(chat('a b', echo={'crash_at': 2})); drive.step(); print('one', flush=True); drive.step()"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=os.getcwd())
    assert (child.stdout, child.returncode) == (b"one\n", -signal.SIGKILL)


@pytest.mark.parametrize("hang", ["gil", "free"])
def test_a_script_hangs_a_step(echo_engine: Engine, hang: str) -> None:
    job = chat("a b", echo={"hang_at": 1, "hang": hang, "hang_ms": 1})
    assert answer(echo_engine, job).result["choices"][0]["text"] == "a b"


def test_a_step_of_the_whole_batch_is_one_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    drive = Drive(engine_with(step_ms=20))

    drive.add(*[chat("a b c") for _ in range(8)])
    drive.run()

    assert len([pause for pause in slept if pause > 0]) == 3


def test_the_clock_does_not_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    ticks: list[float] = []
    monkeypatch.setattr("time.sleep", lambda pause: ticks.append(now + pause))
    pace = Pace(0.1)

    pace.start()
    for _ in range(100):
        pace.wait()
        now = ticks[-1] + 0.03  # oversleep and work

    assert ticks[-1] == pytest.approx(10.0)


def test_a_late_clock_does_not_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    pace = Pace(0.1)

    pace.start()
    now = 5.0
    pace.wait()
    pace.wait()

    assert pauses == pytest.approx([0, 0.1])


def test_a_transcription_says_the_size_and_the_hash_of_the_file(echo_engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"x" * 48_000)
    job, drive = spec("transcription", language="de"), Drive(echo_engine)

    drive.add(job, blob=str(file))
    drive.run()

    digest = hashlib.sha256(b"x" * 48_000).hexdigest()
    assert drive.text(job).replace(" ", "") == f"48000bytesof{digest}"
    result = drive.done(job).result
    assert (result["language"], result["duration"], result["chunks"]) == ("de", 1.5, 19)
    assert [each.text for each in passages(drive.events[job.id][:-1])] == drive.text(job).split()
    assert drive.done(job).usage == {"type": "duration", "seconds": 2}
    progress = [event.progress for event in drive.events[job.id] if isinstance(event, Delta)]
    assert progress == sorted(progress) and progress[-1] == 1


def test_a_transcription_is_scripted_by_its_prompt(echo_engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"x")
    job, drive = spec("transcription", prompt='echo:{"tokens": 2}'), Drive(echo_engine)
    drive.add(job, blob=str(file))
    drive.run()
    assert drive.text(job) == "1 bytes"


def test_a_transcription_goes_on_behind_what_was_said_before(echo_engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"x")
    job, drive = spec("transcription"), Drive(echo_engine)
    drive.add(job, blob=str(file))
    drive.run()
    whole = drive.events[job.id][:-1]

    again = Drive(echo_engine)
    again.add(job, blob=str(file), said=whole[:5])
    again.run()

    assert again.events[job.id][:-1] == whole[5:]


def test_a_transcription_of_an_empty_file_is_refused(echo_engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.touch()
    with pytest.raises(BadRequest) as refused:
        echo_engine.prepare(spec("transcription"), str(file))
    assert (refused.value.code, refused.value.param) == ("invalid_audio", "file")
