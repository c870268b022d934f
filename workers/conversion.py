"""Converts downloaded files to a folder that MLX loads, in a process of its own.

`python -m workers.conversion SOURCE TARGET` prints the precision written: conversion needs MLX,
which the process that asks for a model (the supervisor, the CLI) must not import.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

from workers.sources import WeightsError, last_line

CONVERTERS = {
    "*.gguf": "workers.engines.llm.gguf",
    "model.bin": "workers.engines.asr.ct2",
    "modules.json": "workers.engines.embedding.wheel",
}
ROOT = Path(__file__).parent.parent


def convert_in_child(source: Path, target: Path, keep_open: int) -> str:
    """Convert `source` into the new folder `target`, whole and on disk when this returns.

    `keep_open` is the descriptor of a lock that must outlive this process if it is killed while the
    child writes. Returns the precision written ("any" if no device needs another one).
    Raises WeightsError.
    """
    child = subprocess.run(
        [sys.executable, "-m", "workers.conversion", str(source), str(target)],
        cwd=ROOT,
        pass_fds=(keep_open,),
        capture_output=True,
        text=True,
    )
    if child.returncode < 0:
        raise WeightsError(
            f"Conversion was ended by signal {-child.returncode}, perhaps for want of memory. Try again."
        )
    if child.returncode:
        raise WeightsError(f"Conversion failed: {last_line(child.stderr)}")
    return child.stdout.split()[-1]


def sync(folder: Path) -> None:
    """Wait until a folder's files and names are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def main(source: Path, target: Path) -> None:
    from workers import memory

    for pattern, module in CONVERTERS.items():
        if next(source.rglob(pattern), None):
            memory.preload_blas()
            precision = importlib.import_module(module).convert(source, target, memory.compact())
            sync(target)
            print(precision)
            return
    raise SystemExit(f"nothing to convert: none of {', '.join(CONVERTERS)} in the download")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
