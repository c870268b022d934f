"""Reading ahead: recordings are decoded and cut into chunks in threads of their own.

The engine takes chunks that are ready and never waits for one. How far ahead each recording is read
is bounded, so that memory does not grow with its length.
"""

import itertools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from workers.engines.asr.chunker import Chunk

THREADS = max(2, min(4, (os.cpu_count() or 1) // 4))
SLICE = 0.05  # seconds that a recording is read before it is another one's turn


class Feed:
    """The chunks of one recording, in order, as they are cut. `urgent` ones are read first; `close` is
    called when nobody reads any more. None among `chunks` is a place where reading may stop for a while."""

    def __init__(self, chunks: Iterator[Chunk | None], urgent: bool, close: Callable[[], None]) -> None:
        self.urgent = urgent
        self.ready: deque[Chunk] = deque()
        self.error: Exception | None = None
        self.ended = False  # no more chunks come
        self.busy = False  # a thread reads it, or is going to
        self.turns = 0  # how often it has been read
        self._chunks = chunks
        self._close = close
        self._closed = False
        self._reading = threading.Lock()

    def read(self) -> bool:
        """Cut one more chunk, if SLICE seconds are enough; else True: it is to be read on. For one
        thread at a time."""
        chunk = None
        with self._reading:
            limit = time.monotonic() + SLICE
            try:
                while chunk is None and not self._closed and time.monotonic() < limit:
                    chunk = next(self._chunks)
            except StopIteration:
                self.ended = True
            except Exception as error:  # told to whoever asked for this recording
                self.error = error
                self.ended = True
        if chunk is not None:
            self.ready.append(chunk)
        self.turns += 1
        self.busy = chunk is None and not self.ended
        if self.ended:
            self.close()
        return self.busy

    def close(self) -> None:
        """Let go of the recording: now, or when the thread that reads it is done."""
        self._closed = self.ended = True
        if self._reading.acquire(blocking=False):
            self._close()
            self._reading.release()


class Ears:
    """The threads that read for all feeds of an engine."""

    def __init__(self) -> None:
        self._wanted: queue.PriorityQueue[tuple[bool, int, Feed | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._news = threading.Condition()
        names = [f"ears-{number}" for number in range(THREADS)]
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def read_ahead(self, feed: Feed, ahead: int) -> None:
        """See to it that `ahead` chunks of a feed are ready before long."""
        if not feed.busy and not feed.ended and len(feed.ready) < ahead:
            feed.busy = True
            self._want(feed)

    def wait(self, seconds: float) -> None:
        """Return when a chunk has been cut, at the latest after `seconds`."""
        with self._news:
            self._news.wait(seconds)

    def close(self) -> None:
        for _ in self._threads:
            self._wanted.put((False, -1, None))
        for thread in self._threads:
            thread.join()

    def _want(self, feed: Feed) -> None:
        self._wanted.put((not feed.urgent, next(self._numbers), feed))

    def _run(self) -> None:
        while feed := self._wanted.get()[2]:
            if feed.read():
                self._want(feed)  # behind the others
            with self._news:
                self._news.notify_all()
