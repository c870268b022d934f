"""The echo engine in a plain loop: what a request takes without HTTP, queue, Redis or a second thread."""

import heapq
import random
import time

import msgspec

from benchmarks.streaming import Answer
from shared.events import Delta
from shared.jobs import JobSpec
from shared.manifest import ModelEntry
from workers.engines.echo import EchoEngine, load

Turn = tuple[float, int, int]  # when it is due, its stream, its number


class Script(msgspec.Struct, frozen=True):
    """`each` requests of a stream one after another, `tokens` long, a step being `step` ms."""

    streams: int
    each: int
    tokens: int
    step: float
    burst: bool = False

    def pauses(self, seed: int) -> list[list[float]]:
        """[stream][turn]: seconds before a request, up to two steps; before the first, up to an answer."""
        draw = random.Random(seed)
        pauses = [[draw.uniform(0, self.step / 500) for _ in range(self.each)] for _ in range(self.streams)]
        if not self.burst and self.streams > 1:
            for turns in pauses:
                turns[0] = draw.uniform(0, self.tokens * self.step / 1000)
        return pauses

    def fields(self, stream: int, turn: int) -> dict:
        content = f"stream {stream} asks for the time number {turn}"
        return {"messages": [{"role": "user", "content": content}], "max_tokens": self.tokens}


def run(script: Script, seed: int) -> list[Answer]:
    """Every stream's requests one after another, each after its pause."""
    options = {"step_ms": script.step, "tokens": script.tokens}
    engine = load(ModelEntry(id="echo", engine="echo", max_concurrency=script.streams, options=options))
    pauses = script.pauses(seed)
    began = time.perf_counter()
    due: list[Turn] = [(began + turns[0], stream, 0) for stream, turns in enumerate(pauses)]
    heapq.heapify(due)
    running: dict[str, Turn] = {}
    answers: dict[str, Answer] = {}
    while due or running:
        if not running:
            time.sleep(max(0.0, due[0][0] - time.perf_counter()))
        while due and due[0][0] <= time.perf_counter():
            turn = heapq.heappop(due)
            job_id = _add(engine, script, turn)
            running[job_id], answers[job_id] = turn, Answer(turn[0])
        for job_id, output in engine.step():
            events = engine.render(job_id, [output])
            now = time.perf_counter()
            answers[job_id].arrivals += [now for event in events if isinstance(event, Delta)]
            if output.last:
                engine.forget(job_id)
                _, stream, number = running.pop(job_id)
                if number + 1 < script.each:
                    heapq.heappush(due, (now + pauses[stream][number + 1], stream, number + 1))
    return list(answers.values())


def _add(engine: EchoEngine, script: Script, turn: Turn) -> str:
    _, stream, number = turn
    spec = JobSpec(
        id=f"job-{stream}-{number}",
        task="chat",
        model="echo",
        params={"model": "echo"} | script.fields(stream, number),
        created=time.time(),
        timeout=60.0,
    )
    engine.add(engine.prepare(spec, None))
    return spec.id
