"""Errors of calls: one class for each code of the API, and those that no answer says.

All of them are below `WrennError`. `code` is what programs should read; `message` is for people and
says what was wrong and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._values import CommandResult


def _rebuild(
    kind: type[BaseException], args: tuple[Any, ...], state: Mapping[str, Any]
) -> BaseException:
    """Rebuilds an error from a pickle: constructors take other arguments than `args`."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class WrennError(Exception):
    """Error of a call."""

    code = "internal_error"
    """Code of the error: a small closed set."""

    def __init__(
        self, message: str, *, status: int | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status; `None` where it came inside of a stream, or from this side."""
        self.request_id = request_id
        """Id under which the server's log has the request."""
        self._is_foreign = False
        """True for an answer that is not the API's own, such as the page of a proxy."""
        self._retry_after: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class InvalidRequestError(WrennError):
    """The request itself is wrong: a value out of range, or a name that is not allowed."""

    code = "invalid_request"


class UnauthorizedError(WrennError):
    """There is no key, or one that the server does not know."""

    code = "unauthorized"


class ForbiddenError(WrennError):
    """The key, or the user in the sandbox, may not do this."""

    code = "forbidden"


class NotFoundError(WrennError):
    """There is no such sandbox, template, checkpoint, command or file."""

    code = "not_found"


class MethodNotAllowedError(WrennError):
    """The route has no such method: client and server are of different versions."""

    code = "method_not_allowed"


class InvalidStateError(WrennError):
    """The sandbox is not in a state in which this can be done."""

    code = "invalid_state"


class ConflictError(WrennError):
    """A name or a path is taken."""

    code = "conflict"


class ExpiredError(WrennError):
    """The events behind the cursor are no longer kept."""

    code = "expired"


class TooLargeError(WrennError):
    """A body, a file or a frame is over its limit."""

    code = "too_large"


class UnsupportedMediaTypeError(WrennError):
    """The body is of a type that the route does not read."""

    code = "unsupported_media_type"


class IdempotencyMismatchError(WrennError):
    """An idempotency key came again with another body."""

    code = "idempotency_mismatch"


class ResourceExhaustedError(WrennError):
    """A rate limit of the key, or a limit of the sandbox or the server."""

    code = "resource_exhausted"


class InternalServerError(WrennError):
    """A fault of the server."""

    code = "internal_error"


class AgentError(WrennError):
    """The host agent or the guest failed at this request."""

    code = "agent_error"


class HostUnavailableError(WrennError):
    """No host can take it now."""

    code = "host_unavailable"


class OperationTimeoutError(WrennError, TimeoutError):
    """It took longer than the server, or `timeout` or `request_timeout` of the call, allows."""

    code = "timeout"


class InsufficientStorageError(WrennError):
    """A disk is full: the host's, the guest's, or that of the database."""

    code = "insufficient_storage"


class CommandExitError(WrennError):
    """A command ended with another exit code than 0. `result` has all of it."""

    code = "command_exit"

    def __init__(self, result: CommandResult) -> None:
        tail = result.stderr.strip().rsplit("\n", 1)[-1]
        text = f"the command ended with exit code {result.exit_code}"
        super().__init__(f"{text}: {tail}" if tail else text)
        self.result = result
        self.exit_code = result.exit_code
        self.stdout = result.stdout
        self.stderr = result.stderr


class CommandNotStartedError(InvalidRequestError):
    """A command could not be started; nothing ran."""

    code = "command_not_started"

    def __init__(
        self,
        message: str,
        *,
        exit_code: int,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, status=status, request_id=request_id)
        self.exit_code = exit_code
        """As a shell has it: 127 where there is no such program, 126 where it may not be run."""


class OutputLostError(WrennError):
    """Output of a background command is no longer kept; a handle goes on behind it."""

    code = "output_lost"

    def __init__(self, lost_bytes: int) -> None:
        super().__init__(
            f"{lost_bytes} bytes of output are no longer kept: read faster, or write to a file"
        )
        self.lost_bytes = lost_bytes


class UnreachableError(WrennError, ConnectionError):
    """No connection could be made: nothing happened on the server."""

    code = "unreachable"


class ConnectionBrokenError(WrennError, ConnectionError):
    """The connection broke: whether the request was carried out is not known."""

    code = "connection_broken"


class ProtocolError(WrennError):
    """The server answered with something that this version cannot read."""

    code = "protocol"


class CredentialsError(WrennError):
    """There is no key to send, or only one that is for another server."""

    code = "no_credentials"


BY_CODE: dict[str, type[WrennError]] = {
    error.code: error
    for error in (
        InvalidRequestError,
        UnauthorizedError,
        ForbiddenError,
        NotFoundError,
        MethodNotAllowedError,
        InvalidStateError,
        ConflictError,
        ExpiredError,
        TooLargeError,
        UnsupportedMediaTypeError,
        IdempotencyMismatchError,
        ResourceExhaustedError,
        InternalServerError,
        AgentError,
        HostUnavailableError,
        OperationTimeoutError,
        InsufficientStorageError,
    )
}
"""Class of each code of the API."""

_CODE_OF_STATUS = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    410: "expired",
    413: "too_large",
    415: "unsupported_media_type",
    429: "resource_exhausted",
    502: "agent_error",
    503: "host_unavailable",
    504: "timeout",
    507: "insufficient_storage",
}


def error_from_code(
    code: str,
    message: str,
    *,
    exit_code: int | None = None,
    status: int | None = None,
    request_id: str | None = None,
) -> WrennError:
    """Returns the error of a code. One that is not known here becomes a `WrennError` with it."""
    if exit_code is not None:
        return CommandNotStartedError(
            message, exit_code=exit_code, status=status, request_id=request_id
        )
    kind = BY_CODE.get(code, WrennError)
    error = kind(message, status=status, request_id=request_id)
    error.code = code
    return error


def parse_error_body(body: bytes) -> dict[str, Any] | None:
    """Returns `error` of an answer's body; `None` if the answer is not the API's."""
    try:
        detail = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return None
    has_text = isinstance(detail, dict) and isinstance(detail.get("code"), str)
    return detail if has_text and isinstance(detail.get("message"), str) else None


def error_from_answer(status: int, body: bytes, headers: Mapping[str, str]) -> WrennError:
    """Returns the error that an answer tells of."""
    detail = parse_error_body(body)
    error = _error_from_detail(status, detail, headers.get("x-request-id"))
    error._is_foreign = detail is None
    error._retry_after = headers.get("retry-after")
    return error


def _error_from_detail(
    status: int, detail: dict[str, Any] | None, request_id: str | None
) -> WrennError:
    if detail is None:
        text = f"the server answered with status {status} and no explanation; is it a Wrenn server?"
        code = _CODE_OF_STATUS.get(status, "internal_error")
        return error_from_code(code, text, status=status, request_id=request_id)
    return error_from_code(
        detail["code"],
        detail["message"],
        exit_code=detail.get("exit_code"),
        status=status,
        request_id=request_id,
    )


# Names of E2B, so that moving is an import.
SandboxException = WrennError
NotFoundException = NotFoundError
TimeoutException = OperationTimeoutError
AuthenticationException = UnauthorizedError
RateLimitException = ResourceExhaustedError
InvalidArgumentException = InvalidRequestError
NotEnoughSpaceException = InsufficientStorageError
CommandExitException = CommandExitError

__all__ = [
    "AgentError",
    "AuthenticationException",
    "CommandExitError",
    "CommandExitException",
    "CommandNotStartedError",
    "ConflictError",
    "ConnectionBrokenError",
    "CredentialsError",
    "ExpiredError",
    "ForbiddenError",
    "HostUnavailableError",
    "IdempotencyMismatchError",
    "InsufficientStorageError",
    "InternalServerError",
    "InvalidArgumentException",
    "InvalidRequestError",
    "InvalidStateError",
    "MethodNotAllowedError",
    "NotEnoughSpaceException",
    "NotFoundError",
    "NotFoundException",
    "OperationTimeoutError",
    "OutputLostError",
    "ProtocolError",
    "RateLimitException",
    "ResourceExhaustedError",
    "SandboxException",
    "TimeoutException",
    "TooLargeError",
    "UnauthorizedError",
    "UnreachableError",
    "UnsupportedMediaTypeError",
    "WrennError",
]
