"""`ominix transcribe` without a server: what its paths mean, where results go, what a terminal shows."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from cli.transcribing.batch import key_of
from cli.transcribing.display import Bars, clock, fitted, short
from cli.transcribing.recording import Recording, Tally
from cli.transcribing.sources import Source, find
from cli.transcribing.targets import assign, is_done, write


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    talks = tmp_path / "talks"
    for name in ("b.mp3", "a.WAV", "2024/c.mkv", ".d.mp3", "._a.WAV", ".git/e.mp3", "notes.txt", "f.ts"):
        (talks / name).parent.mkdir(parents=True, exist_ok=True)
        (talks / name).write_bytes(b"sound")
    (talks / "empty.mp3").touch()
    (talks / "broken.mp3").symlink_to("nowhere")
    return talks


def named(paths: list[str], below: Path) -> list[str]:
    return [str(source.path.relative_to(below)) for source in find(paths)[0]]


def test_a_folder_means_its_recordings_without_hidden_and_empty_ones(talks: Path):
    assert named([str(talks)], talks) == ["a.WAV", "b.mp3", "2024/c.mkv"]


def test_a_file_is_taken_whatever_its_name_and_only_once(talks: Path):
    paths = [str(talks / "notes.txt"), str(talks / "b.mp3"), str(talks / "2024" / ".." / "b.mp3"), str(talks)]
    assert named(paths, talks) == ["notes.txt", "b.mp3", "a.WAV", "2024/c.mkv"]


def test_a_pattern_keeps_the_structure_below_where_it_starts(talks: Path):
    found, problems = find([f"{talks.parent}/t*/**/*"])
    assert [str(source.below) for source in found] == ["talks/2024/c.mkv", "talks/a.WAV", "talks/b.mp3"]
    assert not problems


def test_a_name_with_brackets_is_a_name(tmp_path: Path):
    (tmp_path / "[1] talk.mp3").write_bytes(b"sound")
    assert named([str(tmp_path / "[1] talk.mp3")], tmp_path) == ["[1] talk.mp3"]


@pytest.mark.parametrize("path", ["nope.mp3", "nope*.mp3", "silent", "pipe"])
def test_a_path_that_means_nothing_is_a_problem_of_its_own(talks: Path, path: str):
    (talks / "silent").mkdir()
    os.mkfifo(talks / "pipe")
    found, problems = find([str(talks / path), str(talks / "b.mp3")])
    assert [source.path.name for source in found] == ["b.mp3"]
    assert [problem.path for problem in problems] == [str(talks / path)]


def test_places_below_several_folders_begin_with_their_names(tmp_path: Path):
    for disc in ("one", "two"):
        (tmp_path / disc).mkdir()
        (tmp_path / disc / "01.mp3").write_bytes(b"sound")
    found, _ = find([str(tmp_path / "one"), str(tmp_path / "two")])
    assert [str(source.below) for source in found] == ["one/01.mp3", "two/01.mp3"]


@pytest.mark.parametrize(
    ("sources", "out", "results"),
    [
        (["/x/a.mp3", "/x/b.c.mp3"], None, ["/x/a.txt", "/x/b.c.txt"]),
        (["/x/a.mp3", "/x/a.wav", "/y/a.wav"], None, ["/x/a.mp3.txt", "/x/a.wav.txt", "/y/a.txt"]),
        (["/x/a.mp3", "/x/A.wav"], None, ["/x/a.mp3.txt", "/x/A.wav.txt"]),
        (["/a.mp3", "/a.wav", "/a.mp3.ogg"], None, ["/a.mp3.txt", "/a.wav.txt", "/a.mp3.ogg.txt"]),
        (["/x/a.txt"], None, ["/x/a.txt.txt"]),
        (["/x/a.mp3", "/y/a.mp3"], "/out", ["/out/a.mp3.txt", "/out/a.mp3-2.txt"]),
    ],
)
def test_no_result_takes_the_place_of_another_or_of_a_source(
    sources: list[str], out: str | None, results: list[str]
):
    found = [Source(Path(path), Path(Path(path).name)) for path in sources]
    assert [str(path) for path in assign(found, ".txt", Path(out) if out else None)] == results


def test_a_result_is_done_until_its_source_is_newer(tmp_path: Path):
    source, target = tmp_path / "a.mp3", tmp_path / "a.txt"
    source.write_bytes(b"sound")
    assert not is_done(source, target)
    target.touch()
    assert is_done(source, target)
    os.utime(source, ns=(0, target.stat().st_mtime_ns + 1))
    assert not is_done(source, target)


def test_a_result_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError):
        write(tmp_path / "a.txt", b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_key_of_a_job_is_the_file_as_it_is_and_what_is_asked(tmp_path: Path):
    source = tmp_path / "a.mp3"
    source.write_bytes(b"sound")
    first = key_of(source, {"model": "echo", "language": "de"}, 0)
    assert key_of(source, {"language": "de", "model": "echo"}, 0) == first
    assert key_of(source, {"model": "echo"}, 0) != first
    source.write_bytes(b"other sound")
    assert key_of(source, {"model": "echo", "language": "de"}, 0) != first


def test_a_terminal_shows_what_runs_before_what_waits_and_never_more_than_fits():
    running = {"status": "in_progress", "progress": 0.42}
    tally = Tally(1000, done=10, audio=3600.0)
    for index in range(32):
        job = running if index > 29 else {"status": "queued", "progress": 0.0}
        tally.open[Recording(Path("a"), Path("b"), f"{index}.mp3", job, index + 1)] = None
    console = Console(record=True, width=80, height=10, file=open(os.devnull, "w"), force_terminal=True)
    with console.file:
        console.print(Bars(console, tally).picture())
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert len(lines) == 8
    assert lines[0].startswith("30.mp3") and lines[0].endswith("42%")
    assert lines[2].startswith("0.mp3") and lines[2].endswith("waiting, place 1")
    assert lines[6] == "and 26 more"
    assert lines[7].startswith("10/1000 files") and "x, 0:00" in lines[7]


def test_labels_fit_and_obey_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "a" / "b\x1b[2J.mp3") == "a/b\N{REPLACEMENT CHARACTER}[2J.mp3"
    assert short(Path("/elsewhere/a.mp3")) == "/elsewhere/a.mp3"
    assert fitted("talks/2024/long.mp3", 9) == "…long.mp3"
    assert fitted("話/長い名前.mp3", 9) == "…名前.mp3"
    assert (clock(59.6), clock(3661)) == ("1:00", "1:01:01")
