"""Loading a model, or changing how many workers it has, without ever passing the memory budget."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shared import fleet
from shared.disk import is_whole
from shared.errors import Unavailable
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.management.load import Request
from workers import budget
from workers.budget import NeverFits, Tenant, readable
from workers.steward.estate import Estate, Survey, tenants
from workers.steward.waiting import Waiting

AGAIN = 5.0  # seconds after which what has not changed is said again
STALE = 2.5  # seconds that the supervisor's word on a model may be older than its workers
LIMIT = 600.0  # seconds that workers may take to be ready,
SLOWEST = 20 << 20  # and one more for so many bytes


class Hopeless(Unavailable):
    """Jobs that wait for the model wait in vain."""


class Load:
    """An errand. The model is the one of the job; its request may say how many workers."""

    def __init__(self, spec: JobSpec, estate: Estate) -> None:
        self._model = spec.model
        self._asked = msgspec.convert(spec.params, Request).replicas
        self._estate = estate
        self._waiting = Waiting(estate.redis, estate.settings, spec.model)
        self._began = time.monotonic()
        self._before = 0  # replicas
        self._target: int | None = None  # set once the memory is its own
        self._wanted_at = 0.0
        self._said: tuple[Any, float] = (None, 0.0)
        estate.forget(spec.model)
        estate.line.append(self)

    @property
    def model(self) -> str:
        return self._model

    def advance(self) -> Delta | Done | None:
        survey = self._estate.look()
        try:
            self._estate.check_supervisor(survey)
            return self._make_room(survey) if self._target is None else self._watch(survey)
        except Exception as error:
            self._leave_line()
            if isinstance(error, Hopeless) and not survey.is_answered(self._model):
                self._waiting.end(error)
            raise

    def abort(self) -> None:
        self._leave_line()

    # --- memory

    def _make_room(self, survey: Survey) -> Delta | None:
        entry = self._estate.entry(self._model)
        if not is_whole(entry, self._estate.settings.models_dir):
            raise Hopeless(f"'{self._model}' is not on this disk yet: `ominix models pull` fetches it.")
        self._before = survey.replicas(self._model)
        target = self._asked or max(1, self._before)
        need = self._estate.need(entry)
        more = (target - self._before) * need
        if more <= 0:
            return self._take(target, need, survey)
        if self._estate.line[0] is not self:
            return self._tell("waiting for memory")
        waited = time.monotonic() - self._began
        others = tenants(self._estate, survey)
        own = [
            msgspec.structs.replace(each, fixed=True)
            if each.model == self._model and not each.leaving
            else each
            for each in others
        ]
        try:
            going = budget.decide(more, self._estate.budget, own, waited, survey.now)
        except NeverFits as reason:
            raise self._refusal(target, need, reason.fixed) from None
        if going is None:
            return self._tell(self._why_wait(others))
        if going:
            self._estate.want({model: fleet.wanted(0, 0) for model in going})
            return self._tell("unloading", {"unloads": going})
        return self._take(target, need, survey)

    def _take(self, target: int, need: int, survey: Survey) -> Delta | None:
        """From here on the memory is this model's: the supervisor has been told."""
        if target != self._before:
            self._estate.want({self._model: fleet.wanted(target, need)})
        self._leave_line()
        self._target, self._wanted_at = target, time.monotonic()
        return self._tell("starting")

    def _why_wait(self, others: Sequence[Tenant]) -> str:
        return "unloading" if any(each.leaving for each in others) else "waiting for memory"

    def _refusal(self, target: int, need: int, fixed: Sequence[Tenant]) -> "Hopeless":
        what = f"'{self._model}'" if target == 1 else f"{target} workers of '{self._model}'"
        held = [f"{each.model} ({readable(each.bytes)})" for each in fixed if each.model != self._model]
        limit = readable(self._estate.budget)
        if held and need * target <= self._estate.budget:
            advice = f"These would have to go, and are pinned or were started by hand: {', '.join(held)}."
        else:
            advice = "OMINIX_MEMORY_BUDGET_MB sets the budget; a smaller model, or fewer workers, take less."
        return Hopeless(
            f"There is not enough memory for {what}: about {readable(need * target)} of a budget of {limit}. "
            f"{advice}",
            retry_after=60,
        )

    def _leave_line(self) -> None:
        if self in self._estate.line:
            self._estate.line.remove(self)

    # --- processes

    def _watch(self, survey: Survey) -> Delta | Done | None:
        wanted = survey.replicas(self._model)
        if wanted != self._target:
            self._target = wanted  # somebody has changed it since
        if wanted == 0:
            raise Unavailable(f"'{self._model}' was unloaded while it was being loaded.", retry_after=5)
        staying = [worker for worker in survey.ours(self._model) if not worker.leaving]
        ready = survey.ready(self._model)
        if ready >= wanted == len(staying) and not survey.left.get(self._model):
            return Done({"model": self._model, "replicas": wanted, "loaded": True}, {})
        if survey.supervised.get(self._model, "").startswith("failed") and self._took() > STALE:
            why = survey.supervised[self._model].removeprefix("failed: ")
            self._undo()
            raise Hopeless(f"The model '{self._model}' cannot be loaded: {why}", retry_after=30)
        if self._took() > LIMIT + self._estate.need(self._estate.entry(self._model)) / SLOWEST:
            self._undo()
            raise Hopeless(f"'{self._model}' is not loaded after {self._took():.0f} s.", retry_after=30)
        return self._tell("starting" if len(staying) < wanted else "loading", {"ready": ready})

    def _took(self) -> float:
        return time.monotonic() - self._wanted_at

    def _undo(self) -> None:
        """As it was, but for a model that failed then too."""
        before = self._before if self._before < (self._target or 0) else 0
        need = self._estate.need(self._estate.entry(self._model))
        self._estate.want({self._model: fleet.wanted(before, need)})

    # --- words

    def _tell(self, state: str, more: Mapping[str, Any] | None = None) -> Delta | None:
        """The news for this job and for those that wait for the model, None if there is none."""
        data = {"load": {"state": state, "model": self._model, **(more or {})}}
        event = Delta(data=data)
        if not self._estate.look().is_answered(self._model):
            self._waiting.tell(event)
        said, when = self._said
        if said == data and time.monotonic() - when < AGAIN:
            return None
        self._said = data, time.monotonic()
        return event
