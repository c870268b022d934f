"""Which files the paths of a command line mean."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Neither .ts nor .mts: in folders of today those are more often TypeScript than video.
EXTENSIONS = frozenset(
    ".3gp .aac .ac3 .aif .aiff .amr .au .avi .caf .flac .flv .m2ts .m4a .m4b .m4v .mka .mkv .mov .mp2 .mp3"
    " .mp4 .mpeg .mpg .mpga .oga .ogg .ogv .opus .wav .webm .wma .wmv".split()
)


@dataclass(frozen=True)
class Source:
    """A recording: its absolute path, and its place below the folder that it was found in."""

    path: Path
    below: Path


@dataclass(frozen=True)
class Problem:
    """A path that means nothing, and why."""

    path: str
    reason: str


def find(paths: Sequence[str]) -> tuple[list[Source], list[Problem]]:
    """The recordings that files, folders and patterns mean, each once, in an order that does not change.

    With several folders, a source's place begins with its folder's name.
    """
    problems: list[Problem] = []
    groups = [_look(given, problems) for given in paths]
    several = sum(root is not None for root, _ in groups) > 1
    found: dict[Path, Source] = {}
    for root, files in groups:
        for path in files:
            found.setdefault(path, Source(path, _below(path, root, several)))
    return list(found.values()), problems


def _below(path: Path, root: Path | None, several: bool) -> Path:
    if root is None:
        return Path(path.name)
    below = path.relative_to(root)
    return root.name / below if several else below


def _look(given: str, problems: list[Problem]) -> tuple[Path | None, list[Path]]:
    """The folder that a path's recordings are below, None for a single file; and the recordings."""
    path = Path(os.path.abspath(given))
    if path.is_file():
        return None, [path]
    if path.is_dir():
        root, files = path, list(_walk(path, problems))
    elif glob.has_magic(given):
        root, files = _fixed_part(given), list(_match(given, problems))
    else:
        reason = "is neither a file nor a folder" if path.exists() else "there is no such file or folder"
        problems.append(Problem(given, reason))
        return None, []
    if not files:
        problems.append(Problem(given, "there is no audio or video in it"))
    return root, files


def _walk(folder: Path, problems: list[Problem]) -> Iterator[Path]:
    for where, folders, names in os.walk(folder, onerror=_report(problems)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from filter(_is_recording, (Path(where, name) for name in sorted(names)))


def _report(problems: list[Problem]) -> Callable[[OSError], None]:
    return lambda error: problems.append(Problem(str(error.filename), f"{error.strerror}"))


def _match(pattern: str, problems: list[Problem]) -> Iterator[Path]:
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(os.path.abspath(match))
        if path.is_dir():
            yield from _walk(path, problems)
        elif _is_recording(path):
            yield path


def _is_recording(path: Path) -> bool:
    named = path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
    return named and path.is_file() and path.stat().st_size > 0


def _fixed_part(pattern: str) -> Path:
    """The folder that a pattern starts from: `talks` of `talks/*/a*.mp3`."""
    parts = Path(os.path.abspath(pattern)).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])
