"""What a job says: any number of `Delta`, then exactly one `Done` or `Failed`.

Events are JSON in a Redis Stream, one entry each, in the field `e`. What they mean to a client
is the task's affair (`shared/tasks`); here they carry text, tokens and a result.
"""

from typing import Any

import msgspec

from shared.errors import OminixError, error_body, from_status


class Delta(msgspec.Struct, frozen=True, tag_field="kind", tag="delta", omit_defaults=True):
    """A piece of the answer.

    `tokens` counts the tokens behind `text`; `progress` is the share of the work done, 0 to 1;
    `data` is what a task needs beside text.
    """

    text: str = ""
    tokens: int = 0
    progress: float | None = None
    data: dict[str, Any] | None = None


class Done(msgspec.Struct, frozen=True, tag_field="kind", tag="done"):
    """The whole answer, from which a task builds its response body, and the usage."""

    result: dict[str, Any]
    usage: dict[str, Any]


class Failed(msgspec.Struct, frozen=True, tag_field="kind", tag="failed"):
    """The end without an answer, with all that an OpenAI error body has."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None

    @classmethod
    def of(cls, error: OminixError) -> "Failed":
        return cls(error.status, error.type, error.code, error.message, error.param)

    def error(self) -> OminixError:
        return from_status(self.status, self.message, self.param, self.code)

    def body(self) -> dict:
        return error_body(self.message, self.type, self.param, self.code)


Event = Delta | Done | Failed
End = Done | Failed

_decoder = msgspec.json.Decoder(Event)
encode = msgspec.json.Encoder().encode


def decode(data: bytes) -> Event:
    return _decoder.decode(data)
