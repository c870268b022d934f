"""The engine: one transcription at a time, a piece of it a step."""

import math
from collections.abc import Iterable, Iterator

import mlx.core as mx
import msgspec
import numpy as np

from shared.events import Delta, Done, Event
from shared.jobs import JobSpec
from shared.tasks.transcription import Request
from workers.engine import Output, Prepared, SequentialEngine
from workers.engines.asr import audio
from workers.engines.asr.languages import code_of
from workers.engines.asr.recognizer import Asked, Piece, Recognizer

SEED = 0  # of the temperature fallback: the same audio gives the same text


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`options` of the manifest. Samples and spectrogram of a job are held whole: an hour takes 2 GB."""

    max_seconds: float = 3600.0


class Speech(msgspec.Struct):
    """A prepared transcription; `samples` are 16 kHz mono float32."""

    samples: np.ndarray
    asked: Asked


class AsrEngine(SequentialEngine):
    def __init__(self, recognizer: Recognizer, options: Options) -> None:
        super().__init__()
        self._recognizer = recognizer
        self._options = options

    def prepare(self, spec: JobSpec, blob: str | None) -> Prepared:
        request = msgspec.convert(spec.params, Request)
        asked = Asked(
            language=code_of(request.language),
            prompt=request.prompt or None,
            temperature=request.temperature,
        )
        self._recognizer.check(asked)
        if blob is None:
            raise audio.invalid("There is no file.")
        samples = audio.decode(blob, self._options.max_seconds)
        return Prepared(spec, Speech(samples, asked), len(samples))

    def run(self, prepared: Prepared) -> Iterator[Output]:
        speech: Speech = prepared.work
        seconds = len(speech.samples) / audio.RATE
        heard, said, language = "", "", speech.asked.language
        mx.random.seed(SEED)
        for piece in self._recognizer.run(speech.samples, speech.asked):
            heard += piece.text
            language = piece.language or language
            text = heard.strip()
            yield Output(Piece(text[len(said) :], piece.progress))
            said = text
        mx.clear_cache()
        result = {"text": said, "language": language, "duration": seconds}
        yield Output(Done(result, {"type": "duration", "seconds": math.ceil(seconds)}), last=True)

    def render(self, job_id: str, outputs: Iterable[Output]) -> list[Event]:
        pieces: list[Piece] = []
        ends: list[Event] = []
        for output in outputs:
            (ends if isinstance(output.payload, Done) else pieces).append(output.payload)
        text = "".join(piece.text for piece in pieces)
        progress = [piece.progress for piece in pieces if piece.progress is not None]
        said = [Delta(text, progress=progress[-1] if progress else None)] if text or progress else []
        return said + ends
