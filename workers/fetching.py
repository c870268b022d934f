"""Fetches a model in a process of its own, which can be ended at any moment: a thread cannot.

`python -m workers.fetching ENTRY MODELS_DIR` says how far it is in JSON, a line each time. It ends when its
input does: with whoever started it.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from shared.errors import EngineError
from shared.events import Failed
from shared.manifest import ModelEntry
from workers import weights
from workers.children import describe

ROOT = Path(__file__).parent.parent


class News(msgspec.Struct, omit_defaults=True):
    """Bytes that are there, of how many (0: not known); `failed` is the last word of what went wrong."""

    phase: str = "starting"
    done: int = 0
    total: int = 0
    failed: Failed | None = None


class Fetching:
    """`news` is the latest."""

    def __init__(self, entry: ModelEntry, models_dir: Path) -> None:
        self.news = News()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workers.fetching", msgspec.json.encode(entry).decode(), str(models_dir)],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, name="fetching", daemon=True)
        self._listener.start()

    def ended(self) -> bool:
        """Whether it is there. Raises OminixError if it is not to be had."""
        if self._listener.is_alive():
            return False
        if self.news.failed:
            raise self.news.failed.error()
        if status := self._process.wait():
            why = describe(status)
            raise EngineError(f"The download broke off: {why}. Try again; it goes on from there.")
        return True

    def wait(self, seconds: float) -> None:
        """Until it has ended, at most so long."""
        self._listener.join(seconds)

    def kill(self) -> None:
        """End it at once, with whatever it started itself. What has come stays for the next time."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS refuses for a group of zombies
            pass

    def _listen(self) -> None:
        with self._process.stdout as pipe:
            for line in pipe:
                self.news = msgspec.json.decode(line, type=News)
        self._process.wait()
        self._process.stdin.close()


def main(entry: ModelEntry, models_dir: Path) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if models_dir.is_dir():
            weights.tidy(models_dir)
        weights.ensure(entry, models_dir, lambda *news: _say(News(*news)))
    except weights.WeightsError as error:
        _say(News("failed", failed=Failed.of(error.told())))
    return 0


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through a buffer, whose lock would be held at the end
        pass
    os.killpg(0, signal.SIGKILL)


def _say(news: News) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(news) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=ModelEntry), Path(sys.argv[2])))
