"""The manifest: which models there are, where they come from, and what they can do."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.errors import NotFound
from shared.management import STEWARD

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Id = Annotated[str, Meta(pattern=f"^{ID.pattern}$")]  # also a folder and a queue
Alias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
Engine = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$")]
Positive = Annotated[int, Meta(ge=1)]
Host = Annotated[str, Meta(pattern=r"^([A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*$")]  # for ssh and the ring

TASKS = {
    "llm": ("chat", "completion"),
    "asr": ("transcription", "translation"),
    "embedding": ("embedding",),
    "echo": ("chat", "completion", "transcription", "translation"),
}
PYPI = re.compile(r"pypi:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.+!_-]+)")
HUB = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")
SHA256 = re.compile(r"[0-9a-f]{64}")
GUESSES = {  # engine -> what may be in the name of such a repo
    "asr": re.compile(r"asr|whisper|parakeet", re.IGNORECASE),
    "embedding": re.compile(r"embed|minilm", re.IGNORECASE),
}


class ManifestError(ValueError):
    """models.toml cannot be used; the message names the file, the model, the field and the remedy."""


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model that can be served.

    `source` is "pypi:wheel==version", "hf:org/repo[@revision]" or a folder; only the echo engine
    has none. `engine` is a folder of workers/engines; `max_concurrency` how many requests share a
    batch, `max_waiting` how many may queue behind them; `timeout` is seconds of one request's run, for speech
    of the time from one passage to the next;
    `context_length` tokens, None for what the model itself says.

    `replicas` workers are started with the system, 0: the first on demand. `keep_alive` is seconds without a
    request after which it is unloaded, None: when others need the memory; a `pinned` model stays.

    With `hosts` each worker is one process a host, the first being where the worker is started.
    """

    id: Id
    engine: Engine
    tasks: tuple[str, ...] = ()
    source: str = ""
    sha256: str = ""  # of the wheel, for pypi
    aliases: tuple[Alias, ...] = ()
    replicas: Annotated[int, Meta(ge=0)] = 1
    keep_alive: Annotated[float, Meta(gt=0)] | None = None
    pinned: bool = False
    max_concurrency: Positive = 8
    max_waiting: Positive = 1000
    timeout: Annotated[float, Meta(gt=0)] = 600.0
    context_length: Positive | None = None
    hosts: tuple[Host, ...] = ()
    options: dict[str, Any] = {}

    @property
    def model_type(self) -> str:
        """What kind of model clients are told it is."""
        return "llm" if self.engine == "echo" else self.engine

    @property
    def repo_id(self) -> str | None:
        """org/repo of a hub model."""
        match = HUB.fullmatch(self.source)
        return match["repo"] if match else None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a request may use for it."""
        return (self.id, *self.aliases, *filter(None, [self.repo_id]))


class Manifest:
    """Every model that is known, in the order of the file."""

    def __init__(self, entries: tuple[ModelEntry, ...], origin: str = "models") -> None:
        self.entries = entries
        self.origin = origin
        self._by_name = _by_name(entries, origin)

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read the `[[model]]` tables of a TOML file. Raises ManifestError."""
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path}: not valid TOML: {error}") from error
        tables = document.pop("model", [])
        if document or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            found = ", ".join(document) or "model"
            raise ManifestError(f"{path}: {found}: only [[model]] tables are allowed")
        entries = (_entry(table, f"{path}") for table in tables)
        return cls(tuple(_absolute(entry, path.parent) for entry in entries), f"{path}")

    def resolve(self, name: str) -> ModelEntry:
        """The entry with this id, alias or whole hub repo id. Raises NotFound (model_not_found)."""
        if entry := self._by_name.get(name):
            return entry
        known = ", ".join(entry.id for entry in self.entries) or "none"
        raise NotFound(
            f"The model '{name}' does not exist. Models: {known}.", param="model", code="model_not_found"
        )

    def find(self, name: str) -> ModelEntry | None:
        """As `resolve`, None for what there is not."""
        return self._by_name.get(name)

    def for_task(self, task: str) -> tuple[ModelEntry, ...]:
        return tuple(entry for entry in self.entries if task in entry.tasks)

    def with_source(self, source: str) -> "Manifest":
        """This manifest and a hub repo, "hf:org/repo[@revision]"; itself if it has that one already.

        The id is the repo's last part; the engine is guessed from it until the files are there
        (`shared.kinds`). Raises ManifestError.
        """
        if not (match := HUB.fullmatch(source)):
            raise ManifestError(f"{source}: expected hf:org/repo or hf:org/repo@revision")
        if any(entry.source == source for entry in self.entries):
            return self
        repo = match["repo"]
        engine = next((engine for engine, name in GUESSES.items() if name.search(repo)), "llm")
        table = {"id": repo.split("/")[1], "engine": engine, "source": source}
        return Manifest((*self.entries, _entry(table, self.origin)), self.origin)


def _entry(table: dict[str, Any], origin: str) -> ModelEntry:
    where = f"{origin}: model {table.get('id', '(no id)')!r}"
    try:
        entry = msgspec.convert(table, ModelEntry)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{where}: {_explain(str(error))}") from error
    if entry.id == STEWARD:
        raise ManifestError(f"{where}: id: this is what the part that manages models is called; take another")
    if problem := _source_problem(entry) or _hosts_problem(entry):
        raise ManifestError(f"{where}: {problem}")
    if tasks := entry.tasks or TASKS.get(entry.engine):
        return msgspec.structs.replace(entry, tasks=tasks)
    raise ManifestError(
        f"{where}: tasks: the engine {entry.engine!r} has no default; say what it serves, "
        'for example tasks = ["chat"]'
    )


def _absolute(entry: ModelEntry, base: Path) -> ModelEntry:
    """A folder in models.toml is meant from where that file is."""
    if not entry.source or entry.source.startswith(("pypi:", "hf:")):
        return entry
    return msgspec.structs.replace(entry, source=str((base / Path(entry.source).expanduser()).resolve()))


def _explain(message: str) -> str:
    reason, _, path = message.partition(" - at `$.")
    if path:
        return f"{path.rstrip('`')}: {reason}"
    if "unknown field" in reason:
        return f"{reason}; allowed: {', '.join(ModelEntry.__struct_fields__)}"
    return reason


def _source_problem(entry: ModelEntry) -> str | None:
    if not entry.source:
        allowed = '"pypi:wheel==version", "hf:org/repo[@revision]" or a folder'
        return None if entry.engine == "echo" else f"source: missing; expected {allowed}"
    if entry.source.startswith("pypi:"):
        if not PYPI.fullmatch(entry.source):
            return f"source: {entry.source!r}: expected pypi:wheel==version"
        if not SHA256.fullmatch(entry.sha256):
            return "sha256: the wheel's, 64 hexadecimal digits, is needed with a pypi: source"
    if entry.source.startswith("hf:") and not HUB.fullmatch(entry.source):
        return f"source: {entry.source!r}: expected hf:org/repo or hf:org/repo@revision"
    return None


def _hosts_problem(entry: ModelEntry) -> str | None:
    if entry.hosts and entry.engine != "llm":
        return 'hosts: only language models (engine "llm") can be divided among several hosts; leave it out'
    if len(entry.hosts) == 1:
        return "hosts: expected two or more, this one first; leave it out for a model on one host"
    return None


def _by_name(entries: tuple[ModelEntry, ...], origin: str) -> dict[str, ModelEntry]:
    named: dict[str, ModelEntry] = {}
    for entry in entries:
        for name in (entry.id, *entry.aliases):
            if name in named:
                field = "id" if name == entry.id else "aliases"
                raise ManifestError(
                    f"{origin}: model {entry.id!r}: {field}: {name!r} already names model "
                    f"{named[name].id!r}; ids and aliases must be unique"
                )
            named[name] = entry
    for entry in entries:
        if entry.repo_id:  # two entries may share a repo: its first one answers to its name
            named.setdefault(entry.repo_id, entry)
    return named
