"""Values of the surface that are the same for blocking and awaited calls."""

from __future__ import annotations

import codecs
import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ._models import FileKind, TerminalSize
from .errors import ProtocolError

FAST_TIMEOUT = 60.0
"""Seconds that an ordinary call may take."""

SLOW_TIMEOUT = 300.0
"""Seconds for calls that save, restore or boot a sandbox; the server has limits of its own."""

COMMAND_TIMEOUT = 60
"""Seconds that a command may take unless told otherwise, as with E2B."""

ATTEMPTS = 4
"""The first attempt, and three more."""

PATIENCE = 60.0
"""Seconds without progress after which a stream that goes on by itself gives up."""

CHUNK = 64 * 1024
"""Bytes of a part of a stream."""

MAX_STDIN = 32 * 1024
"""Bytes of input in one frame: no limit of a server is near."""

MAX_STDIN_BODY = 1024 * 1024
"""Bytes of input in one request: the limit of the API."""

_SHELL = 'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec sh -c "$1"; fi'

StreamName = Literal["stdout", "stderr", "pty"]


class Unset:
    """Stands for an argument that was not given, where `None` means something."""


UNSET = Unset()


@dataclasses.dataclass(frozen=True)
class CommandResult:
    """What a command wrote, and how it ended."""

    stdout_bytes: bytes
    stderr_bytes: bytes
    exit_code: int
    """128 + signal where a signal ended it."""

    @property
    def stdout(self) -> str:
        """Output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; bytes that are not UTF-8 are replaced."""
        return self.stderr_bytes.decode(errors="replace")


class CommandOutput(NamedTuple):
    """Output as it came: one of the three is not `None`."""

    stdout: str | None = None
    stderr: str | None = None
    pty: bytes | None = None


class OutputChunk(NamedTuple):
    """Output as bytes."""

    stream: StreamName
    data: bytes
    offset: int | None
    """Offset behind it, at which a background command can be followed again."""


class OutputPart(NamedTuple):
    """A part of the kept output of a background command."""

    data: bytes
    next_offset: int
    dropped: int
    """Bytes between the offset that was asked for and the first one that is still kept."""
    state: str
    """`exited` once nothing follows."""


class PtySize(NamedTuple):
    """Size of a terminal in characters."""

    rows: int
    cols: int


@dataclasses.dataclass(frozen=True)
class WatchEvent:
    """A change of a watched directory."""

    type: str
    """`create`, `write`, `remove`, `rename`, `chmod`, or `lost`: list the directory again then."""
    path: str | None = None
    from_path: str | None = None
    """Path before a `rename`."""
    is_directory: bool = False
    message: str | None = None


@dataclasses.dataclass(frozen=True)
class SearchMatch:
    """A file, or a line of one, that a search found."""

    path: str
    kind: FileKind
    line: int | None = None
    text: str | None = None
    is_cut: bool = False


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    matches: list[SearchMatch]
    searched: int
    binary: int
    unreadable: int
    incomplete: str | None = None
    """Reason why there may be more matches; `None` where these are all."""


class WriteEntry(NamedTuple):
    """A file to write."""

    path: str
    data: bytes | str


def command_words(cmd: str | Sequence[str]) -> tuple[str, list[str]]:
    """Returns program and arguments; text is run by a shell of the sandbox."""
    if isinstance(cmd, str):
        return "sh", ["-c", _SHELL, "sh", cmd]
    words = list(cmd)
    if not words:
        raise ValueError("a command has at least one word")
    return words[0], words[1:]


def terminal_json(size: PtySize | TerminalSize | Mapping[str, int]) -> dict[str, int]:
    """Returns the size of a terminal as the API has it."""
    if isinstance(size, Mapping):
        return {"rows": size["rows"], "cols": size["cols"]}
    return {"rows": size.rows, "cols": size.cols}


def as_bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def back_off(attempt: int, retry_after: str | None = None) -> float:
    """Returns the seconds before attempt number `attempt` + 1, counted from 0."""
    if retry_after is not None and retry_after.isdigit():
        return float(retry_after)
    pause: float = 0.2 * 2**attempt
    return pause * (1 + random.random() / 4)


def parse_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ProtocolError(f"the server's answer cannot be read: {error}") from error


class OutputCollector:
    """Decodes output as it comes, and keeps what a result needs."""

    def __init__(self) -> None:
        self._parts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: decoder(errors="replace") for name in self._parts}

    def keep(self, chunk: OutputChunk) -> None:
        name = "stderr" if chunk.stream == "stderr" else "stdout"
        self._parts[name].append(chunk.data)

    def decode(self, chunk: OutputChunk) -> CommandOutput:
        if chunk.stream == "pty":
            return CommandOutput(pty=chunk.data)
        text = self._decoders[chunk.stream].decode(chunk.data)
        if chunk.stream == "stderr":
            return CommandOutput(stderr=text)
        return CommandOutput(stdout=text)

    def result(self, exit_code: int) -> CommandResult:
        return CommandResult(
            b"".join(self._parts["stdout"]), b"".join(self._parts["stderr"]), exit_code
        )


class LineSplitter:
    """Splits a stream of bytes into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def rest(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest


class ServerSentEvents:
    """Parses server-sent events out of lines."""

    def __init__(self) -> None:
        self._name = "message"
        self._data: list[str] = []

    def feed(self, line: str) -> tuple[str, str] | None:
        """Returns name and data of the event that an empty line ends."""
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            return None
        event = (self._name, "\n".join(self._data)) if self._data else None
        self._name = "message"
        self._data = []
        return event


class Multipart:
    """Head and end of a form whose last part is a file."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        boundary = f"wrenn-{random.getrandbits(128):032x}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = ""
        for name, value in fields.items():
            head += f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n'
            head += f"{value}\r\n"
        head += f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="file"\r\n'
        head += "content-type: application/octet-stream\r\n\r\n"
        self.head = head.encode()
        self.end = f"\r\n--{boundary}--\r\n".encode()
