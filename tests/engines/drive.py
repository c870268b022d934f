"""Drives an engine as a worker does, in one thread and without a queue."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

from shared.events import Delta, Done, Event
from shared.jobs import JobSpec
from workers.engine import Engine, Output

_numbers = itertools.count()


def chat(content: str = "Tell me a story about a fox and a river.", **fields: Any) -> JobSpec:
    """A chat job; `echo` is a script for the echo engine."""
    if script := fields.pop("echo", None):
        fields["metadata"] = {"echo": json.dumps(script)}
    system, user = {"role": "system", "content": "Be kind."}, {"role": "user", "content": content}
    fields.setdefault("messages", [system, user])  # without one, templates add a longer one
    return spec("chat", **fields)


def spec(task: str, **params: Any) -> JobSpec:
    job_id = f"job-{next(_numbers)}"
    return JobSpec(id=job_id, task=task, model="m", params={"model": "m"} | params, created=0, timeout=60)


class Drive:
    """What each job said, as outputs and as events rendered one by one."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.outputs: dict[str, list[Output]] = {}
        self.events: dict[str, list[Event]] = {}
        self.errors: dict[str, Exception] = {}
        self.running: list[str] = []

    def add(self, *specs: JobSpec, blob: str | None = None, said: Sequence[Delta] = ()) -> None:
        for each in specs:
            prepared = self.engine.prepare(each, blob, said)
            assert self.engine.has_room(prepared)
            self.engine.add(prepared)
            self.running.append(each.id)
            self.outputs[each.id], self.events[each.id] = [], []

    def step(self) -> None:
        for job_id, output in self.engine.step():
            if job_id not in self.running:  # it ended with an earlier output of this step
                continue
            self.outputs[job_id].append(output)
            if output.error:
                self.errors[job_id] = output.error
            else:
                self.events[job_id] += self.engine.render(job_id, [output])
            ended = self.events[job_id] and isinstance(self.events[job_id][-1], Done)
            if output.last or output.error or ended:
                self.end(job_id)

    def end(self, job_id: str) -> None:
        self.engine.abort(job_id)
        self.engine.forget(job_id)
        self.running.remove(job_id)

    def run(self, steps: int = 10_000) -> "Drive":
        for _ in range(steps):
            if not self.running:
                break
            self.step()
        return self

    def text(self, job: JobSpec) -> str:
        return "".join(event.text for event in self.events[job.id] if isinstance(event, Delta))

    def done(self, job: JobSpec) -> Done:
        end = self.events[job.id][-1]
        assert isinstance(end, Done)
        return end


def answer(engine: Engine, job: JobSpec) -> Done:
    """What one job alone says."""
    drive = Drive(engine)
    drive.add(job)
    return drive.run().done(job)
