"""Values and errors of the Agents SDK for those of ours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from agents.sandbox.errors import (
    ExecTransportError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceWriteTypeError,
)
from agents.sandbox.types import User
from wrenn_sandbox import WrennError
from wrenn_sandbox.errors import (
    ConnectionBrokenError,
    HostUnavailableError,
    ResourceExhaustedError,
    UnreachableError,
)

RETRYABLE = (
    ConnectionBrokenError,
    HostUnavailableError,
    ResourceExhaustedError,
    UnreachableError,
)
"""Errors after which the same may well succeed."""

NO_LIMIT = 24 * 60 * 60
"""Seconds that a command may take where the SDK names no limit."""


def user_name(user: str | User | None) -> str | None:
    """Returns the name of a user, if one is meant."""
    return user.name if isinstance(user, User) else user


def transport_error(words: Sequence[str], error: WrennError) -> ExecTransportError:
    """Returns the SDK's error for a command that could not be carried out."""
    return ExecTransportError(
        command=words,
        context={"provider_error": error.message},
        cause=error,
        retryable=isinstance(error, RETRYABLE),
    )


def whole_seconds(timeout: float | None) -> int:
    """Returns the limit of a command."""
    return NO_LIMIT if timeout is None else max(1, round(timeout))


def whole_data(path: Path, data: io.IOBase) -> bytes:
    """Reads all that is to be written."""
    payload: object = cast(IO[Any], data).read()
    if isinstance(payload, str):
        return payload.encode()
    if not isinstance(payload, bytes | bytearray):
        raise WorkspaceWriteTypeError(path=path, actual_type=type(payload).__name__)
    return bytes(payload)


def read_error(path: Path, error: WrennError) -> WorkspaceArchiveReadError:
    """Returns the SDK's error for something that could not be read."""
    return WorkspaceArchiveReadError(
        path=path,
        context={"provider_error": error.message},
        cause=error,
        retryable=isinstance(error, RETRYABLE),
    )


def write_error(path: Path, error: WrennError) -> WorkspaceArchiveWriteError:
    """Returns the SDK's error for something that could not be written."""
    return WorkspaceArchiveWriteError(
        path=path,
        context={"provider_error": error.message},
        cause=error,
        retryable=isinstance(error, RETRYABLE),
    )
