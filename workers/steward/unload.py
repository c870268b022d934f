"""Unloading a model: its workers finish what they run and end. Jobs that wait stay, and bring it back."""

import time
from typing import Any

import msgspec

from shared import fleet
from shared.errors import Unavailable
from shared.events import Delta, Done
from shared.jobs import JobSpec
from shared.management.unload import Request
from workers.steward.estate import Estate

AGAIN = 5.0  # seconds after which it is said again that it takes time


class Unload:
    """An errand."""

    def __init__(self, spec: JobSpec, estate: Estate) -> None:
        self._model = spec.model
        self._if_idle = msgspec.convert(spec.params, Request).if_idle
        self._estate = estate
        self._told = False
        self._said = 0.0

    def advance(self) -> Delta | Done | None:
        survey = self._estate.look()
        self._estate.check_supervisor(survey)
        replicas = survey.replicas(self._model)
        if replicas and self._told:  # it was brought back already
            return self._done(replicas)
        if replicas and self._if_idle and not survey.idle_since(self._model):
            return self._done(replicas)
        if replicas:
            self._estate.want({self._model: fleet.wanted(0, 0)})
        self._told = True
        if replicas or survey.ours(self._model) or survey.left.get(self._model):
            return self._tell()
        if by_hand := [worker for worker in survey.here if worker.model == self._model]:
            raise Unavailable(
                f"{len(by_hand)} workers of '{self._model}' were started by hand. End their processes: "
                + ", ".join(str(worker.pid) for worker in by_hand)
            )
        return self._done(0)

    def abort(self) -> None:
        pass

    def _tell(self) -> Delta | None:
        if time.monotonic() - self._said < AGAIN:
            return None
        self._said = time.monotonic()
        return Delta(data={"load": {"state": "unloading", "model": self._model}})

    def _done(self, replicas: int) -> Done:
        result: dict[str, Any] = {"model": self._model, "replicas": replicas, "loaded": replicas > 0}
        return Done(result, {})
