"""What an engine needs of a model that hears."""

from collections.abc import Iterator
from typing import Protocol

import msgspec
import numpy as np


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for. `language` is an ISO 639 code; None leaves it to the model."""

    language: str | None = None
    prompt: str | None = None
    temperature: float | None = None


class Piece(msgspec.Struct, frozen=True):
    """What was heard since the last piece, perhaps nothing; `progress` is the share of the audio done."""

    text: str = ""
    progress: float | None = None
    language: str | None = None


class Recognizer(Protocol):
    def check(self, asked: Asked) -> None:
        """Any thread. Raises BadRequest for what the model cannot honour."""

    def run(self, audio: np.ndarray, asked: Asked) -> Iterator[Piece]:
        """`audio` is 16 kHz mono float32. Comes back often, so that a job can be stopped."""
