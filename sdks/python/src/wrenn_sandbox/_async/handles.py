"""Handles of commands: streams, which end with their connection, and followers."""

from __future__ import annotations

import base64
import contextlib
import json
import types
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from .. import _io_async as io
from .._models import CommandInfo, ProcessSignal, TerminalSize
from .._values import (
    FIRST_FRAME_TIMEOUT,
    MAX_STDIN,
    CommandOutput,
    CommandResult,
    OutputChunk,
    OutputCollector,
    Patience,
    PtySize,
    StreamName,
    as_bytes,
    parse_json,
    terminal_json,
)
from ..errors import (
    CommandExitError,
    ConnectionBrokenError,
    InvalidStateError,
    NotFoundError,
    OutputLostError,
    ProtocolError,
    WrennError,
    error_from_code,
)
from .events import BREAKS, GOES_ON_AFTER

if TYPE_CHECKING:
    from .commands import AsyncCommands

OnOutput = Callable[[str], Any]
"""Called with output as it comes."""

Size = PtySize | TerminalSize | Mapping[str, int]


class AsyncCommandHandle:
    """A command that runs: its output as an iterator, its input, its end.

    Iterating gives `CommandOutput`, and keeps the last 16 MiB for the result of `wait`; `chunks`
    gives bytes, and keeps none of them. The end of the block, and `disconnect`, leave a background
    command running, and kill a stream.
    """

    def __init__(self, commands: AsyncCommands, is_terminal: bool) -> None:
        self._commands = commands
        self._is_terminal = is_terminal
        self._collector = OutputCollector()
        self._exit_code: int | None = None
        self._is_closed = False
        self._socket: io.WebSocket | None = None
        self.id: str | None = None
        """Id of a background command."""
        self.pid: int | None = None
        """Id of its process; of a stream once output has been read."""

    @property
    def exit_code(self) -> int | None:
        """Exit code; `None` while the command runs, as far as is known here."""
        return self._exit_code

    def __aiter__(self) -> AsyncCommandHandle:
        return self

    async def __anext__(self) -> CommandOutput:
        chunk = await self._next()
        if chunk is None:
            rest = self._collector.flush()
            if rest is None:
                raise StopAsyncIteration
            return rest
        self._collector.keep(chunk)
        return self._collector.decode(chunk)

    async def chunks(self) -> AsyncIterator[OutputChunk]:
        """Output as bytes, of which nothing is kept here."""
        while (chunk := await self._next()) is not None:
            yield chunk

    async def wait(
        self,
        *,
        check: bool = True,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
    ) -> CommandResult:
        """Waits for the end, and returns it with all output that was not read by `chunks`.

        Of more than 16 MiB that was iterated over before, it has the last part.

        An exit code other than 0 is a `CommandExitError`, unless `check` is false.
        """
        self._collector.is_wanted = True
        async for output in self:
            text = output.stdout if output.pty is None else self._collector.decode_pty(output.pty)
            if text and on_stdout is not None:
                on_stdout(text)
            if output.stderr and on_stderr is not None:
                on_stderr(output.stderr)
        rest = self._collector.flush_pty()
        if rest and on_stdout is not None:
            on_stdout(rest)
        if self._exit_code is None:
            raise InvalidStateError("the handle was disconnected before the command ended")
        result = self._collector.result(self._exit_code)
        if check and result.exit_code != 0:
            raise CommandExitError(result)
        return result

    async def _next(self) -> OutputChunk | None:
        raise NotImplementedError

    async def kill(self) -> bool:
        """Kills the command with SIGKILL; false if it has ended."""
        try:
            await self.send_signal("SIGKILL")
        except NotFoundError:
            return False
        return True

    async def send_signal(self, signal: ProcessSignal) -> None:
        """Sends a signal to the whole process group."""
        raise NotImplementedError

    async def send_stdin(self, data: bytes | str) -> None:
        """Writes to standard input, or types into the terminal."""
        raise NotImplementedError

    async def close_stdin(self) -> None:
        """Ends standard input."""
        raise NotImplementedError

    async def resize(self, size: Size) -> None:
        """Resizes the terminal."""
        raise NotImplementedError

    async def disconnect(self) -> None:
        """Closes the connection, also while input waits that the command does not read."""
        self._is_closed = True
        if self._socket is None:
            return
        if self._exit_code is None:
            await self._socket.abort()
        else:
            await self._socket.close(drops_unsent=True)

    async def __aenter__(self) -> AsyncCommandHandle:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.disconnect()

    def _chunk(self, name: str, data: str, offset: int | None) -> OutputChunk:
        stream: StreamName = "stderr" if name == "stderr" else "stdout"
        if self._is_terminal:
            stream = "pty"
        return OutputChunk(stream, base64.b64decode(data), offset)


class AsyncStreamHandle(AsyncCommandHandle):
    """A command that ends with its connection."""

    async def start(self, start: dict[str, Any]) -> None:
        """Starts, and waits until the program runs, or does not."""
        await self._open(start)
        frame = await self._receive(FIRST_FRAME_TIMEOUT)
        if frame["type"] != "start":
            raise ProtocolError(f"a stream that begins with {frame['type']}")
        self.pid = frame["pid"]

    async def _open(self, start: dict[str, Any]) -> None:
        self._socket = await self._commands._connection.web_socket(
            "exec_stream", path=self._commands._path
        )
        # A server that refuses closes at once; its last frame is read below.
        with contextlib.suppress(ConnectionBrokenError):
            await self._send(start)

    async def _send(self, frame: dict[str, Any]) -> None:
        if self._socket is None or self._is_closed:
            raise InvalidStateError("the handle is disconnected")
        await self._socket.send(json.dumps(frame))

    async def _receive(self, timeout: float | None = None) -> dict[str, Any]:
        if self._socket is None:
            raise InvalidStateError("the handle is disconnected")
        frame: dict[str, Any] = parse_json(await self._socket.recv(timeout))
        if frame["type"] == "error":
            await self.disconnect()
            raise error_from_code(frame["code"], frame["data"], exit_code=frame.get("exit_code"))
        return frame

    async def _next(self) -> OutputChunk | None:
        while self._exit_code is None and not self._is_closed:
            try:
                frame = await self._receive()
            except ConnectionBrokenError:
                if self._is_closed:
                    return None
                await self.disconnect()
                raise
            if frame["type"] == "start":
                self.pid = frame["pid"]
            elif frame["type"] == "exit":
                self._exit_code = frame["exit_code"]
                await self.disconnect()
            elif frame["type"] in ("stdout", "stderr"):
                return self._chunk(frame["type"], frame["data"], None)
        return None

    async def send_signal(self, signal: ProcessSignal) -> None:
        if self._exit_code is not None or self.pid is None:
            raise NotFoundError("the command has ended")
        # Not as a frame: that would wait behind input that the program does not read.
        await self._commands._connection.call(
            "signal_exec",
            path=self._commands._path,
            json_body={"pid": self.pid, "signal": signal},
        )

    async def send_stdin(self, data: bytes | str) -> None:
        whole = as_bytes(data)
        for begin in range(0, len(whole), MAX_STDIN):
            part = base64.b64encode(whole[begin : begin + MAX_STDIN]).decode()
            await self._send({"type": "stdin", "data": part, "encoding": "base64"})

    async def close_stdin(self) -> None:
        await self._send({"type": "stdin_close"})

    async def resize(self, size: Size) -> None:
        await self._send({"type": "resize", "size": terminal_json(size)})


class AsyncBackgroundHandle(AsyncCommandHandle):
    """A follower of a background command.

    `_socket` is its connection, `_attached` the same once the first frame has come.
    """

    _attached: io.WebSocket | None = None

    def __init__(self, commands: AsyncCommands, info: CommandInfo, offset: int) -> None:
        super().__init__(commands, info.terminal)
        self.id = info.id
        self.pid = info.pid
        self.offset = offset
        """Offset behind the last output that was read."""
        self._patience = Patience(commands._connection.patience)

    async def _attach(self) -> io.WebSocket:
        socket = await self._commands._connection.web_socket(
            "attach_command",
            path={**self._commands._path, "command": self.id or ""},
            query={"offset": self.offset, "encoding": "base64"},
        )
        if self._is_closed:
            await socket.abort()
            raise ConnectionBrokenError("the handle was disconnected")
        self._socket = socket
        try:
            frame: dict[str, Any] = parse_json(await socket.recv(FIRST_FRAME_TIMEOUT))
            if frame["type"] == "error":
                raise error_from_code(frame["code"], frame["data"])
        except BaseException:
            # Also where the task was cancelled: the next attempt opens another connection.
            await self._drop()
            raise
        self._patience.connected()
        return socket

    async def _next(self) -> OutputChunk | None:
        while self._exit_code is None and not self._is_closed:
            goes_on_after: tuple[type[WrennError], ...] = GOES_ON_AFTER
            try:
                socket = self._attached or await self._attach()
                self._attached = socket
                # A refusal behind the first frame is what became of the command.
                goes_on_after = BREAKS
                chunk = await self._read_frame(parse_json(await socket.recv()))
            except WrennError as error:
                if isinstance(error, OutputLostError):
                    raise
                await self._drop()
                if self._is_closed:
                    return None
                if not isinstance(error, goes_on_after):
                    self._is_closed = True
                    raise
                await io.sleep(self._patience.next_pause(error, io.monotonic()))
                continue
            if chunk is not None:
                return chunk
        return None

    async def _drop(self) -> None:
        """Ends a connection that is of no more use."""
        socket = self._socket
        self._socket = None
        self._attached = None
        if socket is not None:
            await socket.abort()

    async def _read_frame(self, frame: dict[str, Any]) -> OutputChunk | None:
        kind = frame["type"]
        if kind in ("stdout", "stderr"):
            self._patience.progressed()
            self.offset = frame["next_offset"]
            return self._chunk(kind, frame["data"], self.offset)
        if kind == "dropped":
            self._patience.progressed()
            self.offset = frame["next_offset"]
            raise OutputLostError(frame["bytes"])
        if kind == "exit":
            self._exit_code = frame["exit_code"]
            await self.disconnect()
        elif kind == "error":
            raise error_from_code(frame["code"], frame["data"])
        return None

    async def send_signal(self, signal: ProcessSignal) -> None:
        await self._commands.send_signal(self.id or "", signal)

    async def send_stdin(self, data: bytes | str) -> None:
        await self._commands.send_stdin(self.id or "", data)

    async def close_stdin(self) -> None:
        await self._commands.close_stdin(self.id or "")

    async def resize(self, size: Size) -> None:
        await self._commands._resize(self.id or "", size)
