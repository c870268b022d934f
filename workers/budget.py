"""What fits into the machine's memory, and what has to go for what does not. Arithmetic only."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shared.manifest import ModelEntry

PATIENCE = 3.0  # seconds that a load waits for busy models to become idle; then one of them has to go,
RESIDENCE = 5.0  # if it has been there for so many: two models that want one place take turns of that length


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A model that takes memory, or is about to.

    `idle_since` is Unix seconds, 0 while it has work or is loading; `loaded` is when it was last loaded;
    `fixed`: it is not to be unloaded; `leaving`: it is on its way out.
    """

    model: str
    bytes: int
    idle_since: float = 0.0
    loaded: float = 0.0
    fixed: bool = False
    leaving: bool = False


class NeverFits(Exception):
    """However many others went, there would be no room. `fixed` are those that stay."""

    def __init__(self, fixed: Sequence[Tenant]) -> None:
        super().__init__("it never fits")
        self.fixed = fixed


def decide(need: int, budget: int, tenants: Sequence[Tenant], waited: float, now: float) -> list[str] | None:
    """What has to be unloaded before `need` bytes may be taken: [] for nothing, None to ask again later.

    Idle models go first, the least recently used first of all. Busy ones may finish; after PATIENCE seconds
    of having `waited` the least recently loaded goes too. Raises NeverFits.
    """
    missing = need - budget + sum(each.bytes for each in tenants)
    if missing <= 0:
        return []
    fixed = [each for each in tenants if each.fixed]
    if need > budget - sum(each.bytes for each in fixed):
        raise NeverFits(fixed)
    missing -= sum(each.bytes for each in tenants if each.leaving)
    going: list[str] = []
    for each in _candidates(tenants, waited, now):
        if missing <= 0:
            break
        going.append(each.model)
        missing -= each.bytes
    return going if going and missing <= 0 else None


def _candidates(tenants: Iterable[Tenant], waited: float, now: float) -> list[Tenant]:
    may = [each for each in tenants if not each.fixed and not each.leaving]
    idle = sorted((each for each in may if each.idle_since), key=lambda each: each.idle_since)
    if waited < PATIENCE:
        return idle
    settled = [each for each in may if not each.idle_since and 0 < each.loaded <= now - RESIDENCE]
    return idle + sorted(settled, key=lambda each: each.loaded)


def first_fitting(
    entries: Sequence[ModelEntry], needs: Mapping[str, int], budget: int
) -> tuple[dict[str, int], list[str]]:
    """How many workers of each model are started with the system, pinned models first, then in the order of
    the file; and the ids of those that have to do with fewer than they ask for."""
    replicas = dict.fromkeys((entry.id for entry in entries), 0)
    free = budget
    for entry in sorted(entries, key=lambda entry: not entry.pinned):
        while replicas[entry.id] < entry.replicas and needs[entry.id] <= free:
            replicas[entry.id] += 1
            free -= needs[entry.id]
    return replicas, [entry.id for entry in entries if replicas[entry.id] < entry.replicas]


def readable(size: int) -> str:
    """Bytes as people say them."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{round(size / 2**20)} MiB"
