"""`ominix steward`: do what is asked about models until told to stop."""

import msgspec

from shared import management
from shared.catalog import Catalog
from shared.connections import connect
from shared.manifest import ModelEntry
from shared.settings import Settings
from workers import serve
from workers.steward.deleting import Delete
from workers.steward.downloading import Downloads
from workers.steward.engine import Steward
from workers.steward.estate import Estate
from workers.steward.house import House
from workers.steward.load import Load
from workers.steward.unload import Unload

SLOTS = 64  # errands at once
DRAIN = 0.1  # seconds: what is under way goes back at once, and the next steward goes on with it


def main(settings: Settings) -> int:
    """Run the jobs of `shared.management` until SIGTERM or SIGINT. Returns the exit code."""
    entry = ModelEntry(
        id=management.STEWARD,
        engine=management.STEWARD,
        tasks=tuple(management.tasks()),
        max_concurrency=SLOTS,
    )
    hasty = msgspec.structs.replace(settings, drain_timeout=DRAIN)
    return serve.run(entry, hasty, lambda: make(settings))


def make(settings: Settings) -> Steward:
    """The steward, and its housekeeping thread."""
    catalog = Catalog(settings)
    estate = Estate(connect(settings.redis, retries=5), settings, lambda: catalog.manifest)
    House(estate, connect(settings.redis), settings).start()
    errands = {
        "download": Downloads(catalog, settings).begin,
        "delete": lambda spec: Delete(spec, estate, catalog),
        "load": lambda spec: Load(spec, estate),
        "unload": lambda spec: Unload(spec, estate),
    }
    return Steward(errands, SLOTS)
