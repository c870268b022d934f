"""From a decoded JSON object (or form) to a request struct, or a 400 that names the field."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from shared.errors import BadRequest

Request = TypeVar("Request")

_MISSING = re.compile(r"Object missing required field `(\w+)`")
_PATH = re.compile(r" - at `\$\.?(.*)`$")


def validate(
    raw: Any,
    kind: type[Request],
    unsupported: Mapping[str, tuple],
    *,
    strict: bool = True,
) -> Request:
    """`raw` as a `kind`. `unsupported` has the known fields that this version cannot honour and
    the values of each that ask for nothing. `strict=False` reads numbers from a form's strings.

    Raises BadRequest.
    """
    if not isinstance(raw, dict):
        raise BadRequest("The request body must be a JSON object.")
    try:
        request = msgspec.convert(raw, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise from_msgspec(error) from error
    for name in unsupported.keys() & raw.keys():
        if raw[name] is not None and raw[name] not in unsupported[name]:
            raise not_supported(name, raw[name], unsupported[name])
    return request


def from_msgspec(error: msgspec.ValidationError) -> BadRequest:
    message = str(error)
    path = _PATH.search(message)
    reason, param = _PATH.sub("", message), path.group(1) if path else None
    if missing := _MISSING.match(reason):
        param = f"{param}.{missing.group(1)}" if param else missing.group(1)
        return BadRequest(
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )
    return BadRequest(f"Invalid value for '{param or 'body'}': {reason}.", param=param)


def not_supported(name: str, value: Any, allowed: tuple) -> BadRequest:
    """The 400 for a known field that this server cannot honour. Long values are not repeated."""
    shown = f" {value!r}" if isinstance(value, str | int | float | bool) and len(str(value)) < 40 else ""
    hint = f"; it may be {' or '.join(map(repr, allowed))}" if allowed else "; leave it out"
    return BadRequest(
        f"'{name}'{shown} is not supported by this server{hint}.",
        param=name,
        code="unsupported_value",
    )
