"""`ominix models list`."""

from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from cli.remote import Remote
from shared.manifest import Manifest
from shared.settings import Settings
from workers import weights


def print_models(
    settings: Settings, manifest: Manifest, url: str | None = None, console: Console | None = None
) -> None:
    """The models of this machine; how many workers each has, where a server says so."""
    with Remote(url or f"http://127.0.0.1:{settings.port}", None) as remote:
        running: dict[str, Any] = (remote.health() or {}).get("models", {})
    table = Table(box=None, pad_edge=False)
    for heading in ("MODEL", "TASKS", "SOURCE", "ON DISK", *(["WORKERS"] if running else [])):
        table.add_column(heading, no_wrap=heading == "MODEL")
    for entry in manifest.entries:
        size = weights.describe(entry, settings.models_dir)["size_bytes"]
        there = decimal(size) if size else "-" if entry.source else "needs nothing"
        tasks = ", ".join(entry.tasks) or f"none ({entry.engine})"
        workers = [str(running.get(entry.id, {}).get("ready", 0) or "-")] if running else []
        table.add_row(entry.id, tasks, entry.source or entry.engine, there, *workers)
    (console or Console()).print(table)
