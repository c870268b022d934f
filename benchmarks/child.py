"""What the service is compared with, in a process of its own, which idles while the service is measured."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from workers import memory


@contextlib.contextmanager
def child(load: Callable[..., Callable[..., Any]], *arguments: Any) -> Iterator[Callable[..., Any]]:
    """The function that `load(*arguments)` returns in the child process, to be called from here. A call
    raises EOFError or OSError if the process has died."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, load, arguments), daemon=True)
    process.start()
    theirs.close()

    def call(*arguments: Any) -> Any:
        ours.send(arguments)
        return ours.recv()

    try:
        yield call
    finally:
        ours.close()
        process.join(30)
        process.kill()


def _serve(pipe: Connection, load: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    memory.preload_blas()
    function = load(*arguments)
    with contextlib.suppress(EOFError):  # the other side has closed
        while True:
            pipe.send(function(*pipe.recv()))
