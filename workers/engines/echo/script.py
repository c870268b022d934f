"""What the echo engine has been told to do: by its options, and by each request."""

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.errors import BadRequest
from shared.jobs import JobSpec

Count = Annotated[int, Meta(ge=0)]
Step = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[float, Meta(ge=0)]

PREFIX = "echo:"  # of a transcription's `prompt` that is a script
TEXT = ("chat", "completion")


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call of one of the request's tools: without a name the first, or the one that must be called."""

    name: str | None = None
    arguments: dict[str, Any] | str = {}

    @property
    def written(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one job goes. Steps count from 1, and step n says token n.

    `text` is said instead of what the request says, `think` before it as reasoning (unless the request
    wants none), `call` instead of it where the request has tools; with `text` both.

    `leak_mb` is memory (MiB) that the job takes and nobody gives back.

    `fail_at` costs that job alone, `crash_at` ends the process by SIGKILL, `hang_at` makes the step
    take `hang_ms`, with the GIL held ("gil") or released ("free"). `raise_in` raises where an engine
    with a bug would, "step" costing the whole batch and "abort" the process.
    """

    tokens: Count | None = None  # length of the text, by repetition; None: each word once
    text: str | None = None
    think: str | None = None
    call: Call | list[Call] | None = None
    prepare_ms: Milliseconds = 0
    leak_mb: Count = 0
    fail_at: Step | None = None
    crash_at: Step | None = None
    hang_at: Step | None = None
    hang: Literal["gil", "free"] = "free"
    hang_ms: Milliseconds = 3_600_000
    raise_in: Literal["prepare", "add", "step", "abort"] | None = None

    @property
    def calls(self) -> list[Call]:
        return self.call if isinstance(self.call, list) else [self.call] if self.call else []


class Options(Script, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`options` of the manifest: the script of every request that brings none, and the engine's pace.

    `step_ms` is the time of one step of the whole batch, `load_ms` that of loading the model, `ballast_mb`
    the memory (MiB) that it takes.
    """

    step_ms: Milliseconds = 0
    load_ms: Milliseconds = 0
    ballast_mb: Count = 0


class Fault(RuntimeError):
    """The error that a script asked for."""


def script_of(spec: JobSpec, options: Options) -> Script:
    """The job's script: what the request says, over the options. Raises BadRequest."""
    raw, param = _raw_script(spec)
    if raw is None:
        return options
    try:
        told = msgspec.json.decode(raw)
        return msgspec.convert(_fields(options) | _fields(told), Script)
    except (msgspec.MsgspecError, TypeError) as error:
        raise BadRequest(f"The echo script in '{param}' is not valid: {error}.", param=param) from error


def _raw_script(spec: JobSpec) -> tuple[str | None, str]:
    if spec.task in TEXT:
        return (spec.params.get("metadata") or {}).get("echo"), "metadata"
    prompt = spec.params.get("prompt") or ""
    return (prompt.removeprefix(PREFIX) if prompt.startswith(PREFIX) else None), "prompt"


def _fields(told: Any) -> dict[str, Any]:
    if isinstance(told, Options):
        return {name: msgspec.to_builtins(getattr(told, name)) for name in Script.__struct_fields__}
    return dict(told)
