"""`ominix models rm`: by a server that runs, else straight from the home."""

import shutil
from urllib.parse import quote

from cli.remote import Remote
from shared import disk, keys
from shared.errors import Conflict, NotFound, Unavailable
from shared.management import delete
from shared.manifest import Manifest, ModelEntry
from shared.settings import Settings
from workers import embedded, redis_state, weights


def remove(name: str, settings: Settings, manifest: Manifest, url: str | None, api_key: str | None) -> str:
    """Delete the files of a model. Returns its id; raises OminixError. Without `url` a server of this
    machine is asked if there is one."""
    name = delete.validate({"model": name}).model
    with Remote(url or f"http://127.0.0.1:{settings.port}", api_key) as remote:
        if url or remote.health():
            return remote.ask("DELETE", f"/v1/models/{quote(name, safe='')}")["id"]
    entry = manifest.find(name) or ModelEntry(id=name.rpartition("/")[2], engine="llm", source=f"hf:{name}")
    if not disk.is_remote(entry):
        raise Conflict(f"'{entry.id}' is not downloaded by OminiX, which does not delete it.")
    _check_unused(entry.id, settings)
    folders = weights.withdraw(entry, settings.models_dir)
    if not folders:
        raise NotFound(f"There are no files of a model '{name}' here: see `ominix models list`.")
    for folder in folders:
        shutil.rmtree(folder)
    return entry.id


def _check_unused(model: str, settings: Settings) -> None:
    """Raises Conflict while a worker holds it: without Redis there is none of our own."""
    if not redis_state.wait_until_up(settings, patience=0.5):
        if settings.redis_url:
            raise Unavailable(f"Redis at {embedded.where(settings)} does not say whether '{model}' is used.")
        return
    with redis_state.connect(settings, timeout=5.0) as redis:
        names = [name.decode() for name in redis.smembers(keys.WORKERS)]
        held = [redis.hmget(keys.worker(name), "model", "pid") for name in names]
    pids = [pid.decode() for held_model, pid in held if held_model == model.encode()]
    if pids:
        raise Conflict(f"'{model}' is held by the worker in process {', '.join(pids)}: end that first.")
