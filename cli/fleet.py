"""`ominix models load`, `unload` and `scale`: asked of a server that runs, and waited for."""

from collections.abc import Sequence

from rich.console import Console

from cli.remote import Json, Remote
from shared.errors import BadRequest, Unavailable


def change(what: str, requests: Sequence[Json], url: str, api_key: str | None, wait: bool) -> int:
    """Ask for each, all at once, and wait until all are done. Returns the exit status; raises OminixError
    for the first that is refused."""
    console = Console(stderr=True, highlight=False)
    with Remote(url, api_key) as remote:
        jobs = [remote.ask("POST", f"/v1/models/{what}", request) for request in requests]
        if not wait:
            for job in jobs:
                console.print(f"{job['model']}: {job['status']}, job {job['job_id']}", soft_wrap=True)
            return 0
        failed = [job for job in jobs if not _follow(remote, job, console)]
    return 1 if failed else 0


def parse(counts: Sequence[str]) -> list[Json]:
    """Requests of "asr=3 chat=2". Raises BadRequest."""
    requests = []
    for each in counts:
        model, _, count = each.rpartition("=")
        if not model or not count.isdigit() or int(count) < 1:
            raise BadRequest(f"{each!r}: expected MODEL=NUMBER, such as asr=3; `unload` is for none.")
        requests.append({"model": model, "replicas": int(count)})
    return requests


def _follow(remote: Remote, job: Json, console: Console) -> bool:
    """Whether it ended well; what it says is shown meanwhile."""
    model = job["model"]
    with console.status(f"{model}: {job['status']}") as status:
        for kind, event in remote.events(job["job_id"]):
            if kind == "failed":
                console.print(f"{model}: {event['message']}", soft_wrap=True, markup=False)
                return False
            if kind == "done":
                console.print(f"{model}: {_outcome(event['result'])}", markup=False)
                return True
            status.update(f"{model}: {_said(event)}")
    raise Unavailable(f"The server ended before {model} was done. The job {job['job_id']} goes on.")


def _said(event: Json) -> str:
    load = (event.get("data") or {}).get("load", {})
    unloads = ", ".join(load.get("unloads", ()))
    return f"{load.get('state', 'under way')} {unloads}".rstrip()


def _outcome(result: Json) -> str:
    workers = result["replicas"]
    return f"{workers} worker{'s' if workers > 1 else ''}" if workers else "unloaded"
