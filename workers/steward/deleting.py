"""Deleting a model that nobody uses: out of sight at once, from the disk in its own time."""

import shutil
import threading
from pathlib import Path

from shared.catalog import Catalog
from shared.errors import Conflict
from shared.events import Done
from shared.jobs import JobSpec
from shared.manifest import ModelEntry
from workers import weights
from workers.steward.estate import Estate


class Delete:
    """An errand. It is done in the thread that decides on loads, so that no load comes in between."""

    def __init__(self, spec: JobSpec, estate: Estate, catalog: Catalog) -> None:
        self._model = spec.model
        self._estate = estate
        self._catalog = catalog
        self._removal: threading.Thread | None = None

    def advance(self) -> Done | None:
        if self._removal is None:
            self._check_unused()
            gone = self._withdraw()
            self._removal = threading.Thread(target=_remove, args=(gone,), name="removal", daemon=True)
            self._removal.start()
        if self._removal.is_alive():
            return None
        return Done({"id": self._model, "object": "model", "deleted": True}, {})

    def abort(self) -> None:
        """What has been taken away stays away; the next download removes what is left of it."""

    def _check_unused(self) -> None:
        """Raises Conflict."""
        survey = self._estate.look()
        workers = [worker for worker in survey.workers if worker.model == self._model]
        if workers or survey.replicas(self._model) or survey.left.get(self._model):
            where = ", ".join(f"process {worker.pid} of {worker.host}" for worker in workers)
            raise Conflict(
                f"'{self._model}' is loaded{f' ({where})' if where else ''}. Unload it first: "
                f"POST /v1/models/unload, or `ominix models unload {self._model}`; a worker that was started "
                "by hand is ended by hand."
            )
        loads = any(load.model == self._model for load in self._estate.line)
        if loads or survey.waiting.get(self._model):
            raise Conflict(f"'{self._model}' is about to be loaded: requests wait for it.")

    def _withdraw(self) -> list[Path]:
        entry = self._catalog.manifest.find(self._model)
        entry = entry or ModelEntry(id=self._model, engine="llm")  # of which there is only a beginning
        try:
            return weights.withdraw(entry, self._estate.settings.models_dir)
        except weights.WeightsError as error:
            raise error.told() from error


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
