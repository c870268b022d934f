"""Who is read next, of the jobs that wait for a slot."""

from collections import Counter, deque

import msgspec

from workers.engines.llm.sequence import Sequence

BATCH_EVERY = 8  # every so many sequences the batch lane goes first, so that it never starves


class Waiting:
    """The sequences of jobs, those that came first before others."""

    def __init__(self) -> None:
        self._jobs: dict[str, deque[Sequence]] = {}
        self._taken = 0

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, sequence: Sequence) -> None:
        self._jobs.setdefault(sequence.job_id, deque()).append(sequence)

    def remove(self, job_id: str) -> None:
        """Any other id is ignored."""
        self._jobs.pop(job_id, None)

    def next(self, running: Counter[str], held: set[str]) -> Sequence | None:
        """That of the job whose turn it is: interactive before batch, then that which runs least, then the
        oldest. So a job of a thousand prompts leaves room for the others."""
        last = "interactive" if self._taken % BATCH_EVERY == BATCH_EVERY - 1 else "batch"
        turns = {
            job_id: (sequences[0].lane == last, running[job_id])
            for job_id, sequences in self._jobs.items()
            if job_id not in held
        }
        job_id = min(turns, key=turns.__getitem__, default=None)
        return self._jobs[job_id][0] if job_id else None

    def take(self, sequence: Sequence) -> None:
        """What `next` gave, or the first samples of it; the others go on waiting."""
        waiting = self._jobs[sequence.job_id]
        if rest := waiting[0].samples[len(sequence.samples) :]:
            waiting[0] = msgspec.structs.replace(waiting[0], samples=rest, again=True)
        else:
            waiting.popleft()
        if not waiting:
            del self._jobs[sequence.job_id]
        self._taken += 1
