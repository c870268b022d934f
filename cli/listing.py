"""`ominix models list`."""

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from shared.manifest import Manifest
from shared.settings import Settings
from workers import weights


def print_models(settings: Settings, manifest: Manifest, console: Console | None = None) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("MODEL", "TASKS", "SOURCE", "ON DISK"):
        table.add_column(heading, no_wrap=heading == "MODEL")
    for entry in manifest.entries:
        size = weights.describe(entry, settings.models_dir)["size_bytes"]
        there = decimal(size) if size else "-" if entry.source else "needs nothing"
        table.add_row(entry.id, ", ".join(entry.tasks), entry.source or entry.engine, there)
    (console or Console()).print(table)
