"""Values of the surface that are the same for blocking and awaited calls."""

from __future__ import annotations

import codecs
import collections
import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ._models import FileDiff, FileKind, TerminalSize
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

MAX_PAUSE = 2.0
"""Seconds before such a stream connects again, at most."""

MAX_KEPT = 16 * 1024 * 1024
"""Bytes of output that was iterated over that are kept for the result of `wait`."""

FIRST_FRAME_TIMEOUT = 60.0
"""Seconds until a stream that was opened says that it began."""

SILENCE = 60.0
"""Seconds without a byte after which a connection is broken: the server sends every 15 seconds."""

CHUNK = 64 * 1024
"""Bytes of a part of a stream."""

MAX_STDIN = 32 * 1024
"""Bytes of input in one frame: no limit of a server is near."""

MAX_STDIN_BODY = 1024 * 1024
"""Bytes of input in one request: the limit of the API."""

_SHELL = (
    'if command -v bash >/dev/null 2>&1; then exec bash -l -c "$1"; else exec sh -l -c "$1"; fi'
)

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


@dataclasses.dataclass(frozen=True)
class DiffResult:
    """Files of a sandbox that differ at two moments."""

    changes: list[FileDiff]
    """In the order of their paths."""
    from_: str
    """Checkpoint before."""
    to: str | None
    """Checkpoint after; `None` for the present state."""
    from_unflushed: bool
    """The guest did not flush its file system then: what was in its memory is not compared."""
    to_unflushed: bool
    compared: int
    """Number of files and directories that were compared."""
    unreadable: int
    """Number of changes that could not be read."""
    incomplete: str | None = None
    """Reason why there may be more changes; `None` where these are all."""


class WriteEntry(NamedTuple):
    """A file to write."""

    path: str
    data: bytes | str


def command_words(cmd: str | Sequence[str]) -> tuple[str, list[str]]:
    """Returns program and arguments; text is run by a login shell of the sandbox."""
    if isinstance(cmd, str):
        return "/bin/sh", ["-c", _SHELL, "sh", cmd]
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
    """Decodes output as it comes, and keeps what a result needs.

    Of more than `MAX_KEPT` bytes it keeps the last ones, unless all of it `is_wanted`.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self._size = 0
        # In the order in which they came, so that the oldest goes first.
        self._chunks: collections.deque[OutputChunk] = collections.deque()
        decoder = codecs.getincrementaldecoder("utf-8")
        names = ("stdout", "stderr", "pty")
        self._decoders = {name: decoder(errors="replace") for name in names}

    def keep(self, chunk: OutputChunk) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk.data)
        while not self.is_wanted and self._size > MAX_KEPT and len(self._chunks) > 1:
            self._size -= len(self._chunks.popleft().data)

    def decode(self, chunk: OutputChunk) -> CommandOutput:
        if chunk.stream == "pty":
            return CommandOutput(pty=chunk.data)
        text = self._decoders[chunk.stream].decode(chunk.data)
        if chunk.stream == "stderr":
            return CommandOutput(stderr=text)
        return CommandOutput(stdout=text)

    def decode_pty(self, data: bytes) -> str:
        """Decodes output of a terminal; a character over two pieces stands in the second one."""
        return self._decoders["pty"].decode(data)

    def flush(self) -> CommandOutput | None:
        """Returns what a character that broke off at the end became; `None` for no more."""
        if text := self._flush_stream("stdout"):
            return CommandOutput(stdout=text)
        if text := self._flush_stream("stderr"):
            return CommandOutput(stderr=text)
        return None

    def flush_pty(self) -> str:
        """Returns the same for the output of a terminal; an empty text for none."""
        return self._flush_stream("pty")

    def _flush_stream(self, name: str) -> str:
        text = self._decoders[name].decode(b"", final=True)
        self._decoders[name].reset()
        return text

    def result(self, exit_code: int) -> CommandResult:
        stdout = [chunk.data for chunk in self._chunks if chunk.stream != "stderr"]
        stderr = [chunk.data for chunk in self._chunks if chunk.stream == "stderr"]
        return CommandResult(b"".join(stdout), b"".join(stderr), exit_code)


class Patience:
    """Time without an answer over broken connections.

    It begins at the first failure, not while a connection that is well is quiet.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._since: float | None = None
        self._attempt = 0

    def connected(self) -> None:
        """Ends the time without an answer.

        Pauses go on to grow: a server that answers and breaks off is not asked again and again.
        """
        self._since = None

    def progressed(self) -> None:
        """Does the same, and makes pauses short again."""
        self._since = None
        self._attempt = 0

    def next_pause(self, failure: Exception, now: float) -> float:
        """Returns the seconds before the next attempt; raises `failure` if it took too long."""
        if self._since is None:
            self._since = now
        elif now - self._since > self._limit:
            raise failure
        pause = min(MAX_PAUSE, back_off(self._attempt))
        self._attempt = min(self._attempt + 1, ATTEMPTS)
        return pause


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
        self._id: str | None = None
        self.last_id: str | None = None
        """Position of the stream. Not that of an event that broke off: it is asked for again."""

    def feed(self, line: str) -> tuple[str, str] | None:
        """Returns name and data of the event that an empty line ends."""
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            elif name == "id":
                self._id = value
            return None
        self.last_id = self._id or self.last_id
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
