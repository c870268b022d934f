"""`ominix models pull`: by a server that runs, else straight into the home."""

from rich.console import Console
from rich.progress import Progress

from cli.remote import Json, Remote
from cli.serving import download_bar
from shared import catalog
from shared.errors import BadRequest, Conflict, Unavailable, from_status
from shared.management import download
from shared.manifest import HUB, Manifest, ModelEntry
from shared.settings import Settings
from workers import weights
from workers.fetching import Fetching

LOOK = 0.2  # seconds between two looks at how far it is
STOPPED = "Stopped. What has come stays for a week; the same command goes on with it."
STATES = {"wait": "another process is fetching it", "download": "downloading", "convert": "converting"}


def pull(name: str, settings: Settings, manifest: Manifest, url: str | None, api_key: str | None) -> int:
    """Fetch "org/repo[@revision]", or a model of the models file by its id. Returns the exit status;
    raises OminixError. Without `url` a server of this machine is asked if there is one."""
    console = Console(stderr=True, highlight=False)
    with Remote(url or f"http://127.0.0.1:{settings.port}", api_key) as remote:
        if url or remote.health():
            return _by_server(_asked(name, manifest), remote, console)
    return _directly(name, settings, manifest, console)


def _asked(name: str, manifest: Manifest) -> download.Request:
    """Raises BadRequest."""
    entry = None if "/" in name else manifest.find(name)
    source = HUB.fullmatch(entry.source if entry else f"hf:{name}")
    if entry and not source:
        raise BadRequest(f"'{name}' is not from the hub: `ominix serve` fetches it when it starts.")
    repo, revision = (source["repo"], source["revision"]) if source else (name, None)
    return download.validate({"repo_id": repo, "revision": revision})


def _by_server(asked: download.Request, remote: Remote, console: Console) -> int:
    body: Json = {"repo_id": asked.repo_id} | ({"revision": asked.revision} if asked.revision else {})
    job = remote.ask("POST", download.ENDPOINT, body)
    try:
        with download_bar(console) as bar:
            return _follow(job, remote, bar)
    except KeyboardInterrupt:
        remote.ask("DELETE", f"/v1/jobs/{job['job_id']}")
        console.print(STOPPED)
        return 130


def _follow(job: Json, remote: Remote, bar: Progress) -> int:
    model = job["id"]
    task = bar.add_task(f"{model}: waiting", total=None)
    for kind, event in remote.events(job["job_id"]):
        if kind == "failed":
            raise from_status(event["status"], event["message"], event.get("param"), event["code"])
        if kind == "done":
            size = event["result"]["size_bytes"]
            bar.update(task, description=f"{model}: there", completed=size, total=size)
            return 0
        if said := (event.get("data") or {}).get("download"):
            label = f"{model}: {said['state']}"
            bar.update(task, description=label, completed=said["bytes"], total=said["total"] or None)
    raise Unavailable(f"The server ended before {model} was there. The job {job['job_id']} goes on.")


def _directly(name: str, settings: Settings, manifest: Manifest, console: Console) -> int:
    entry = None if "/" in name else manifest.find(name)
    entry = entry or catalog.target(manifest, _asked(name, manifest))
    if weights.is_ready(entry, settings.models_dir):
        raise Conflict(f"'{entry.id}' is here already: `ominix models rm {entry.id}` deletes it.")
    fetching = Fetching(entry, settings.models_dir)
    try:
        with download_bar(console) as bar:
            _watch(fetching, entry, bar)
            size = weights.describe(entry, settings.models_dir)["size_bytes"]
            bar.update(bar.task_ids[0], description=f"{entry.id}: there", completed=size, total=size)
    except KeyboardInterrupt:
        fetching.kill()
        console.print(STOPPED)
        return 130
    return 0


def _watch(fetching: Fetching, entry: ModelEntry, bar: Progress) -> None:
    task = bar.add_task(f"{entry.id}: looking", total=None)
    while not fetching.ended():
        news = fetching.news
        label = f"{entry.id}: {STATES.get(news.phase, news.phase)}"
        bar.update(task, description=label, completed=news.done, total=news.total or None)
        fetching.wait(LOOK)
