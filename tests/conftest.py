"""What several folders of tests share."""

from collections.abc import Iterator

import pytest

from tests.live import Live


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A system that serves the model "echo"; "unserved" has no worker, "absent" no files."""
    with Live(tmp_path_factory.mktemp("live"), OMINIX_KEEPALIVE="0.2", OMINIX_MAX_UPLOAD_MB="8") as system:
        yield system


SYSTEMS = {"processes", "fleet", "hosts"}  # folders whose tests are marked so


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first, then those over whole processes, then those that load real weights."""
    for item in items:
        if SYSTEMS.intersection(item.path.parts):
            item.add_marker("systems")
    items.sort(key=_cost)


def _cost(item: pytest.Item) -> int:
    if item.get_closest_marker("models") or item.get_closest_marker("metal"):
        return 2
    whole = any(part in item.path.parts for part in ("cli", "openai", "clients"))
    return int(whole or item.get_closest_marker("systems") is not None)
