"""Where a recording's result goes, and whether it is there already."""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cli.transcribing.sources import Source


def assign(sources: Sequence[Source], ending: str, out: Path | None) -> list[Path]:
    """A file for each source, beside it or below `out`; no two the same, and none a source itself.

    It is the source's stem and `ending`; sources that would meet keep their whole name before it.
    """
    places = [out / source.below if out else source.path for source in sources]
    kept = [_key(source.path) for source in sources]
    whole: set[int] = set()
    while True:
        targets = [_named(place, ending, index in whole) for index, place in enumerate(places)]
        count = Counter([*kept, *map(_key, targets)])
        meeting = {index for index, target in enumerate(targets) if count[_key(target)] > 1} - whole
        if not meeting:
            return _numbered(targets, set(kept))
        whole |= meeting


def is_done(source: Path, target: Path) -> bool:
    """Whether the target is there and not older than its source."""
    try:
        return target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except FileNotFoundError:
        return False


def write(target: Path, content: bytes) -> None:
    """The whole file or none of it. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".ominix-{os.getpid()}.part"
    try:
        part.write_bytes(content)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _named(place: Path, ending: str, whole: bool) -> Path:
    return place.with_name((place.name if whole else place.stem) + ending)


def _numbered(targets: list[Path], taken: set[str]) -> list[Path]:
    """Files of one name from several folders, put into one."""
    found = []
    for target in targets:
        free, number = target, 1
        while _key(free) in taken:
            number += 1
            free = target.with_name(f"{target.stem}-{number}{target.suffix}")
        taken.add(_key(free))
        found.append(free)
    return found


def _key(path: Path) -> str:
    """Equal for paths that are one file on a Mac's disk, which ignores case and composition."""
    return unicodedata.normalize("NFC", str(path)).casefold()
