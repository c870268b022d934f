"""One folder an engine, each with `load(entry, path) -> Engine`. MLX is imported only below here."""

import sys


def leave_thread() -> None:
    """The last call of a thread that ran an engine: give back MLX's streams of this thread.

    Without it the process aborts at exit ("terminate called without an active exception", MLX 0.32.4).
    Nothing that needs MLX can run in the thread afterwards.
    """
    if mlx := sys.modules.get("mlx.core"):
        mlx.clear_streams()
