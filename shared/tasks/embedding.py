"""Embeddings of texts, in the shapes of `openai.types.create_embedding_response`.

Vectors travel in the deltas of a job as they are computed, in any order, so that a job whose worker has
died goes on behind them. Nothing is streamed to a client: `stream` is always false, and there is no `Stream`.
"""

import array
import base64
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.errors import BadRequest
from shared.events import Delta, Done
from shared.jobs import JobSpec, Lane
from shared.validation import validate as convert

ENDPOINT = "/v1/embeddings"
FILE = False
RESUMES = True
STREAM_END = None

MAX_INPUTS = 2048  # of one request, and
MAX_TOKENS = 300_000  # of all its inputs together: both are OpenAI's
ENTRY = 64_000  # characters of vectors in one event
UNSUPPORTED: dict[str, tuple] = {"webhook_url": ()}

Token = Annotated[int, Meta(ge=0)]


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An embeddings request. `input` is a text, token ids, or a list of either: one vector for each."""

    model: str
    input: str | list[str | Token | list[Token]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None

    @property
    def stream(self) -> bool:
        return False

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """What each vector is of."""
        if isinstance(self.input, str):
            return [self.input]
        return [self.input] if isinstance(self.input[0], int) else self.input


class Vectors(msgspec.Struct, frozen=True):
    """Vectors of the inputs with these `indices`: their float32 values, little-endian, end to end."""

    indices: list[int]
    values: bytes


def validate(raw: Any, strict: bool = True) -> Request:
    request = convert(raw, Request, UNSUPPORTED, strict=strict)
    if len(request.input) == 0:
        raise _bad("'input' must not be empty.")
    if isinstance(request.input, list):
        _check_list(request.input)
    return request


def _check_list(inputs: list) -> None:
    kinds = set(map(type, inputs))
    if len(kinds) > 1:
        raise _bad("'input' must be a text, token ids, or a list of either: a mixture is not allowed.")
    if kinds == {int}:
        return
    if len(inputs) > MAX_INPUTS:
        raise _bad(f"'input' may have at most {MAX_INPUTS} texts; this request has {len(inputs)}.")
    for index, each in enumerate(inputs):
        if len(each) == 0:
            raise _bad(f"'input[{index}]' must not be empty.")


def _bad(message: str) -> BadRequest:
    return BadRequest(message, param="input")


def lane(request: Request, detached: bool) -> Lane:
    return "batch" if detached else "interactive"


def body(spec: JobSpec, said: list[Delta], done: Done) -> dict:
    found = dict(vectors(said))
    shown = _base64 if spec.params.get("encoding_format") == "base64" else _floats
    data = [
        {"object": "embedding", "index": index, "embedding": shown(found[index])}
        for index in range(done.result["count"])
    ]
    return {"object": "list", "data": data, "model": spec.model, "usage": done.usage}


def deltas(indices: Sequence[int], values: Sequence[bytes], progress: float) -> list[Delta]:
    """The events of vectors, each a row of `values`; they are split so that no event is large."""
    at_once = max(1, ENTRY // (len(values[0]) * 4 // 3 + 6))
    pieces = range(0, len(indices), at_once)
    vectors = [
        Vectors(list(indices[at : at + at_once]), b"".join(values[at : at + at_once])) for at in pieces
    ]
    return [Delta(progress=progress, data={"vectors": msgspec.to_builtins(each)}) for each in vectors]


def vectors(said: Iterable[Delta]) -> Iterator[tuple[int, bytes]]:
    """(index of the input, values) of every vector in a job's deltas."""
    for delta in said:
        if told := (delta.data or {}).get("vectors"):
            found = msgspec.convert(told, Vectors)
            size = len(found.values) // len(found.indices)
            for place, index in enumerate(found.indices):
                yield index, found.values[place * size : (place + 1) * size]


def _base64(values: bytes) -> str:
    return base64.b64encode(values).decode()


def _floats(values: bytes) -> list[float]:
    floats = array.array("f", values)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()
