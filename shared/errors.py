"""Every error that a client can see, as one tree.

OminixError
├── BadRequest 400          invalid_value, missing_required_parameter, unsupported_value,
│                           invalid_audio, context_length_exceeded
├── InvalidApiKey 401
├── Forbidden 403           forbidden_path, forbidden_origin
├── NotFound 404            not_found, model_not_found
├── MethodNotAllowed 405
├── Conflict 409
├── PayloadTooLarge 413
├── QueueFull 429
├── Cancelled 499
├── EngineError 500
├── WorkerDied 500
├── Unavailable 503         model_unavailable, overloaded
├── TimedOut 504
└── InsufficientStorage 507

A worker's error reaches the API as a `Failed` event with the same four fields and the status.
"""


class OminixError(Exception):
    """An error with the shape that OpenAI's clients expect.

    `message` says what to do; `param` names the field, `retry_after` is in seconds.
    """

    status = 500
    type = "server_error"
    code = "engine_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after = retry_after

    def body(self) -> dict:
        """The JSON body of the answer."""
        return error_body(self.message, self.type, self.param, self.code)


def error_body(message: str, type: str, param: str | None, code: str | None) -> dict:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


class BadRequest(OminixError):
    status, type, code = 400, "invalid_request_error", "invalid_value"


class InvalidApiKey(OminixError):
    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(OminixError):
    status, type, code = 403, "invalid_request_error", "forbidden_path"


class NotFound(OminixError):
    status, type, code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(OminixError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class Conflict(OminixError):
    status, type, code = 409, "invalid_request_error", "conflict"


class PayloadTooLarge(OminixError):
    status, type, code = 413, "invalid_request_error", "payload_too_large"


class QueueFull(OminixError):
    status, type, code = 429, "rate_limit_error", "queue_full"


class Cancelled(OminixError):
    status, type, code = 499, "invalid_request_error", "cancelled"


class EngineError(OminixError):
    status, type, code = 500, "server_error", "engine_error"


class WorkerDied(OminixError):
    status, type, code = 500, "server_error", "worker_died"


class Unavailable(OminixError):
    status, type, code = 503, "server_error", "model_unavailable"


class TimedOut(OminixError):
    status, type, code = 504, "server_error", "timeout"


class InsufficientStorage(OminixError):
    status, type, code = 507, "server_error", "insufficient_storage"


BY_STATUS: dict[int, type[OminixError]] = {
    kind.status: kind for kind in OminixError.__subclasses__() if kind is not WorkerDied
}


def from_status(status: int, message: str, param: str | None, code: str | None) -> OminixError:
    """The error of the tree that another process reported by its status and code."""
    return BY_STATUS.get(status, EngineError)(message, param=param, code=code)
