"""One recording on its way, and how far a batch of them is."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(eq=False)
class Recording:
    """One file on its way. `job` is the last job object seen, `place` the one in line."""

    source: Path
    target: Path
    label: str
    job: dict[str, Any] | None = None
    place: int | None = None
    error: str | None = None

    @property
    def is_waiting(self) -> bool:
        return self.job is not None and self.job["status"] == "queued"

    @property
    def progress(self) -> float:
        return self.job["progress"] if self.job else 0.0


@dataclass
class Tally:
    """How far a batch is. `audio` is in seconds, of what was transcribed since `begun`."""

    total: int
    open: dict[Recording, None] = field(default_factory=dict)  # in the order of submission
    done: int = 0
    failed: list[Recording] = field(default_factory=list)
    audio: float = 0.0
    begun: float = field(default_factory=time.time)

    @property
    def ended(self) -> int:
        return self.done + len(self.failed)

    @property
    def seconds(self) -> float:
        return time.time() - self.begun

    @property
    def speed(self) -> float | None:
        """Seconds of audio a second."""
        return self.audio / max(self.seconds, 0.001) if self.audio else None
