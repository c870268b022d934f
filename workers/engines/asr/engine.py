"""The engine: chunks of all its jobs share the recognizer's batch."""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import msgspec

from shared.errors import WorkerDied
from shared.events import Delta, Event
from shared.jobs import JobSpec
from shared.transcript import Passage, Segment
from workers import memory
from workers.engine import Output, Prepared
from workers.engines.asr import audio
from workers.engines.asr.chunker import Chunk, Strategy, cut
from workers.engines.asr.ears import Ears, Feed
from workers.engines.asr.languages import code_of, name_of
from workers.engines.asr.recognizer import Asked, Hearing, Recognizer
from workers.transcript import Ended, Transcript, log_heard

IDLE = 0.01  # seconds that a step waits for a first chunk
SLACK = 2  # chunks that are ready beyond those that are heard
EXTRA = 2  # chunks of interactive jobs that join a batch that is full
SHARE = 8  # chunks of interactive jobs, and then one of a batch job
ALIVE = 5.0  # seconds between two signs of life of a job that is only read, or waits for its turn
TIDY = 8  # chunks after which MLX's cache of buffers is given back

Key = tuple[str, int]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`options` of the manifest. `max_seconds` of a recording; `aligner` gives a model without times
    those of words: the folder or hub repo of a Qwen3-ForcedAligner."""

    max_seconds: float = 12 * 3600.0
    aligner: str = ""


class Task(msgspec.Struct):
    """A prepared transcription: what is asked, its recording, and what was heard before."""

    asked: Asked
    strategy: Strategy
    recording: audio.Recording
    transcript: Transcript


class Job:
    """A transcription in flight."""

    def __init__(self, prepared: Prepared, longest: float, order: int) -> None:
        task: Task = prepared.work
        self.id = prepared.spec.id
        self.asked = task.asked
        self.recording = task.recording
        self.transcript = task.transcript
        self.order = order
        self.turn = 0  # when its last chunk was begun
        self.running: dict[int, tuple[float, float]] = {}  # chunk -> seconds of the recording
        self.languages = self.transcript.languages.copy()  # characters heard in each
        self._turns_read = 0
        every = cut(task.recording.blocks(), longest, task.strategy)
        self.feed = Feed(self._missing(every), task.asked.urgent, task.recording.close)

    def _missing(self, every: Iterator[Chunk | None]) -> Iterator[Chunk | None]:
        """Chunks that no earlier attempt has heard. Cutting is deterministic: the numbers agree, unless
        the file or the model is another one now."""
        known = dict(self.transcript.before)
        for chunk in every:
            span = known.pop(chunk.index, None) if chunk else None
            if span and span != _span(chunk):
                raise _changed(self.id)
            yield None if span else chunk
        if known:
            raise _changed(self.id)

    @property
    def over(self) -> bool:
        return self.feed.ended and not self.feed.ready and not self.running

    def is_alive(self) -> bool:
        """Whether it waits for its turn, or more of it has been read since this was last asked."""
        before, self._turns_read = self._turns_read, self.feed.turns
        return self._turns_read > before or bool(self.feed.ready and not self.running)

    @property
    def language(self) -> str | None:
        """The English name of the one most of it is in, as OpenAI has it: in lower case."""
        code = self.asked.language or next((code for code, _ in self.languages.most_common(1)), None)
        return name_of(code).lower() if code else None


class AsrEngine:
    """Serves transcriptions and translations. Interactive jobs' chunks go first; while one of them is
    heard, batch jobs keep what they have begun and begin nothing, but for one chunk in all. Behind SHARE
    interactive ones that chunk goes first, so that batch jobs never starve."""

    def __init__(self, recognizer: Recognizer, options: Options) -> None:
        self.slots = 2 * recognizer.rows  # one is read while another is heard
        self._recognizer = recognizer
        self._options = options
        self._ears = Ears()
        self._jobs: dict[str, Job] = {}
        self._transcripts: dict[str, Transcript] = {}
        self._order = itertools.count()
        self._turns = itertools.count(1)
        self._passed = 0  # interactive chunks begun since the last of a batch job
        self._alive = time.monotonic()
        self._heard = 0
        self._at_once = recognizer.rows if memory.compact() else 1  # chunks begun in one step

    def prepare(self, spec: JobSpec, file: str | None, said: Sequence[Delta] = ()) -> Prepared:
        asked = asked_of(spec)
        self._recognizer.check(asked)
        if file is None:
            raise audio.invalid("There is no file.")
        recording = audio.Recording(file, self._options.max_seconds)
        strategy = strategy_of(spec)
        return Prepared(spec, Task(asked, strategy, recording, Transcript(recording.duration, said)))

    def has_room(self, prepared: Prepared) -> bool:
        return len(self._jobs) < self.slots

    def add(self, prepared: Prepared) -> None:
        job = Job(prepared, self._recognizer.longest, next(self._order))
        self._transcripts[job.id] = job.transcript
        self._jobs[job.id] = job
        self._ears.read_ahead(job.feed, 1)

    def step(self) -> list[tuple[str, Output]]:
        if not self._jobs:
            return []
        self._begin()
        outputs = [output for key, heard in self._hear() for output in self._output(key, heard)]
        outputs += self._signs_of_life()
        outputs += [self._end(job) for job in list(self._jobs.values()) if job.over]
        if not outputs and not self._running:
            self._ears.wait(IDLE)
        return outputs

    def abort(self, job_id: str) -> None:
        if job := self._jobs.pop(job_id, None):
            for index in job.running:
                self._recognizer.abort((job_id, index))
            job.feed.close()

    def render(self, job_id: str, outputs: Iterable[Output]) -> list[Event]:
        transcript = self._transcripts.get(job_id)
        if transcript is None:
            return []
        payloads = [output.payload for output in outputs if output.payload is not None]
        return [transcript.end(p) if isinstance(p, Ended) else transcript.hear(p) for p in payloads]

    def forget(self, job_id: str) -> None:
        self._transcripts.pop(job_id, None)

    def close(self) -> None:
        for job_id in list(self._jobs):
            self.abort(job_id)
        self._ears.close()

    # --- which chunks are heard

    @property
    def _running(self) -> int:
        return sum(len(job.running) for job in self._jobs.values())

    def _begin(self) -> None:
        """Add chunks to the batch by the rule of the lanes, and have more read."""
        for _ in range(self._at_once):
            if not (job := self._next()):
                break
            chunk = job.feed.ready.popleft()
            job.turn = next(self._turns)
            self._passed = self._passed + 1 if job.asked.urgent else 0
            job.running[chunk.index] = _span(chunk)
            self._recognizer.add((job.id, chunk.index), chunk.samples, job.asked)
        ahead = max(1, (self._recognizer.rows + SLACK) // len(self._jobs))
        for job in self._jobs.values():
            self._ears.read_ahead(job.feed, ahead)

    def _next(self) -> Job | None:
        """Whose chunk is next: of the jobs that may begin one, of those with the fewest running, the one
        that has waited longest."""
        rows, running = self._recognizer.rows, self._running
        urgent = [job for job in self._jobs.values() if job.asked.urgent]
        batch = [job for job in self._jobs.values() if not job.asked.urgent]
        ready = [job for job in urgent if job.feed.ready] if running < rows + EXTRA else []
        due = bool(ready) and self._passed >= SHARE
        if due or (not ready and running < rows):
            may = not urgent or not any(job.running for job in batch)
            ready = [job for job in batch if job.feed.ready and may] or ready
        return min(ready, key=lambda job: (len(job.running), job.turn, job.order), default=None)

    # --- what was heard

    def _hear(self) -> list[tuple[Key, Hearing | Exception]]:
        try:
            return self._recognizer.step()
        except Exception as error:  # costs what was being heard, not what is only read
            return [((job.id, index), error) for job in self._jobs.values() for index in job.running]

    def _output(self, key: Key, heard: Hearing | Exception) -> list[tuple[str, Output]]:
        job_id, index = key
        job = self._jobs.get(job_id)
        if job is None or index not in job.running:  # aborted meanwhile
            return []
        if isinstance(heard, Exception):
            self.abort(job_id)  # here and now, or this step might end it as done
            return [(job_id, Output(error=heard))]
        start, end = job.running.pop(index)
        log_heard(job_id, index)
        self._heard += 1
        if self._heard % TIDY == 0:
            mx.clear_cache()
        if heard.language:
            job.languages[heard.language] += len(heard.text)
        segments = [_placed(segment, start, end) for segment in heard.segments]
        passage = Passage(index, start, end, heard.text, heard.language, segments, heard.logprobs)
        return [(job_id, Output(passage))]

    def _signs_of_life(self) -> list[tuple[str, Output]]:
        """Outputs without news for jobs that have none and are well."""
        if time.monotonic() - self._alive < ALIVE:
            return []
        self._alive = time.monotonic()
        return [(job.id, Output()) for job in self._jobs.values() if job.is_alive()]

    def _end(self, job: Job) -> tuple[str, Output]:
        del self._jobs[job.id]
        job.feed.close()
        if job.feed.error:
            return job.id, Output(error=job.feed.error)
        if not self._jobs:
            mx.clear_cache()
        return job.id, Output(Ended(job.recording.seconds, job.language), last=True)


def asked_of(spec: JobSpec) -> Asked:
    """Raises BadRequest for a language that nobody knows."""
    params = spec.params
    return Asked(
        task="translate" if spec.task == "translation" else "transcribe",
        language=code_of(params.get("language")),
        prompt=params.get("prompt") or None,
        temperature=params.get("temperature"),
        times=params.get("response_format") in ("srt", "vtt"),
        words="word" in (params.get("timestamp_granularities") or ()),
        logprobs="logprobs" in (params.get("include") or ()),
        urgent=spec.lane == "interactive",
    )


def strategy_of(spec: JobSpec) -> Strategy:
    asked = spec.params.get("chunking_strategy")
    if not isinstance(asked, dict):
        return Strategy()
    told = {name: asked[name] for name in Strategy.__struct_fields__ if asked.get(name) is not None}
    return Strategy(**told)


def _span(chunk: Chunk) -> tuple[float, float]:
    return chunk.start / audio.RATE, chunk.end / audio.RATE


def _changed(job_id: str) -> WorkerDied:
    return WorkerDied(
        f"A worker died while it ran job {job_id}, and its recording or model has changed since. "
        "Please send it again."
    )


def _placed(segment: Segment, begin: float, until: float) -> Segment:
    """The same segment with times from the recording's beginning. A model that has heard something in
    the silence behind a chunk gives times there: they count as its end."""

    def place(spoken: Any) -> Any:
        start, end = (round(min(begin + at, until), 3) for at in (spoken.start, spoken.end))
        return msgspec.structs.replace(spoken, start=start, end=end)

    words = segment.words and [place(word) for word in segment.words]
    return msgspec.structs.replace(place(segment), words=words)
