"""Commands: to their end, as streams, in the background, and on terminals.

Two kinds of handles have one surface. A *stream* (`exec/stream`) is a command that ends with its
connection; a slow reader slows it down, and nothing of its output is lost. A *background command*
belongs to the sandbox: a handle follows it, and attaches again where it was when the connection
breaks. Its last 32 MiB of output are kept.
"""

from __future__ import annotations

import base64
import builtins
import contextlib
import json
import types
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, overload

from .. import _io_async as io
from .._models import CommandInfo, ProcessSignal, TerminalSize
from .._values import (
    COMMAND_TIMEOUT,
    FIRST_FRAME_TIMEOUT,
    MAX_STDIN,
    MAX_STDIN_BODY,
    UNSET,
    CommandOutput,
    CommandResult,
    OutputChunk,
    OutputCollector,
    OutputPart,
    Patience,
    PtySize,
    StreamName,
    Unset,
    as_bytes,
    command_words,
    parse_json,
    terminal_json,
    without_none,
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
from .connection import AsyncConnection
from .events import BREAKS, GOES_ON_AFTER

OnOutput = Callable[[str], Any]
"""Called with output as it comes."""

DEFAULT_SIZE = PtySize(24, 80)
"""Size of a terminal, unless told otherwise."""

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
            raise StopAsyncIteration
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


class _AsyncStreamHandle(AsyncCommandHandle):
    """A command that ends with its connection."""

    async def start(self, start: dict[str, Any]) -> None:
        self._socket = await self._commands._connection.web_socket(
            "exec_stream", path=self._commands._path
        )
        # A server that refuses closes at once; its last frame is read below.
        with contextlib.suppress(ConnectionBrokenError):
            await self._send(start)

    async def start_and_check(self, start: dict[str, Any]) -> None:
        """Starts, and waits until the program runs, or does not."""
        await self.start(start)
        frame = await self._receive(FIRST_FRAME_TIMEOUT)
        if frame["type"] != "start":
            raise ProtocolError(f"a stream that begins with {frame['type']}")
        self.pid = frame["pid"]

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


class _AsyncBackgroundHandle(AsyncCommandHandle):
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
        frame: dict[str, Any] = parse_json(await socket.recv(FIRST_FRAME_TIMEOUT))
        if frame["type"] == "error":
            raise error_from_code(frame["code"], frame["data"])
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


class AsyncCommands:
    """Commands in a sandbox.

    Text is run by a login shell: bash where the sandbox has it, else sh. A list of words is run
    as it is.
    """

    def __init__(self, connection: AsyncConnection, sandbox_id: str) -> None:
        self._connection = connection
        self._path = {"id": sandbox_id}

    @overload
    async def run(
        self,
        cmd: str | Sequence[str],
        background: Literal[False] = False,
        *,
        envs: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        stdin: bytes | str | bool | None = None,
        timeout: int | None = COMMAND_TIMEOUT,
        check: bool = True,
    ) -> CommandResult: ...

    @overload
    async def run(
        self,
        cmd: str | Sequence[str],
        background: Literal[True],
        *,
        envs: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        stdin: bool | None = None,
        timeout: int | None = None,
        name: str | None = None,
        keep_alive: bool = False,
    ) -> AsyncCommandHandle: ...

    async def run(
        self,
        cmd: str | Sequence[str],
        background: bool = False,
        *,
        envs: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        stdin: bytes | str | bool | None = None,
        timeout: int | Unset | None = UNSET,
        check: bool = True,
        name: str | None = None,
        keep_alive: bool = False,
    ) -> CommandResult | AsyncCommandHandle:
        """Runs a command to its end, or starts it in the background.

        `stdin` is what it reads, or true to write to a background command later. `timeout` are
        seconds, 0 or `None` for no limit; it ends the command, and is 60 for one that is waited
        for. An exit code other than 0 is a `CommandExitError`, unless `check` is false. A
        background command counts as use of the sandbox while a handle follows it, or with
        `keep_alive` for as long as it runs.
        """
        if background:
            limit = None if isinstance(timeout, Unset) else timeout
            start = self._start(cmd, envs, user, cwd, limit)
            start = {**start, **without_none({"name": name}), "keep_alive": keep_alive}
            return await self._start_background({**start, "stdin": bool(stdin)})
        data = None if stdin is None or isinstance(stdin, bool) else as_bytes(stdin)
        handle = _AsyncStreamHandle(self, is_terminal=False)
        limit = COMMAND_TIMEOUT if isinstance(timeout, Unset) else timeout
        start = self._start(cmd, envs, user, cwd, limit)
        async with handle:
            await handle.start({**_STREAM_START, **start, "stdin": data is not None})
            # Beside the reading: a command may write while it does not read.
            feeder = io.Task(lambda: _feed(handle, data))
            try:
                return await handle.wait(check=check, on_stdout=on_stdout, on_stderr=on_stderr)
            finally:
                await handle.disconnect()
                await feeder.stop()

    async def stream(
        self,
        cmd: str | Sequence[str],
        *,
        envs: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        stdin: bool = False,
        timeout: int | None = None,
        pty: Size | None = None,
    ) -> AsyncCommandHandle:
        """Starts a command that ends with its connection, and returns a handle of it.

        Its output is held back while it is not read, and none of it is lost.
        """
        handle = _AsyncStreamHandle(self, is_terminal=pty is not None)
        start = {**_STREAM_START, **self._start(cmd, envs, user, cwd, timeout), "stdin": stdin}
        if pty is not None:
            start = {**start, "terminal": terminal_json(pty)}
        try:
            await handle.start_and_check(start)
        except BaseException:
            await handle.disconnect()
            raise
        return handle

    async def connect(
        self, id: str, *, offset: int | None = None, tail_bytes: int | None = None
    ) -> AsyncCommandHandle:
        """Follows a background command, by its id, name or pid.

        What it has written comes first: from `offset` on, or the last `tail_bytes`, or from the
        first byte that is kept.
        """
        info = await self.get(id)
        if tail_bytes is not None:
            offset = max(info.output.start, info.output.end - tail_bytes)
        begin = info.output.start if offset is None else offset
        return _AsyncBackgroundHandle(self, info, begin)

    async def list(self) -> builtins.list[CommandInfo]:
        """Lists background commands, running and ended, oldest first."""
        found = await self._connection.json("list_commands", path=self._path)
        return [CommandInfo.from_json(entry) for entry in found["commands"]]

    async def get(self, id: str) -> CommandInfo:
        """Gets a background command, by its id, name or pid."""
        path = {**self._path, "command": str(id)}
        return CommandInfo.from_json(await self._connection.json("get_command", path=path))

    async def read_output(
        self,
        id: str,
        *,
        offset: int = 0,
        stream: Literal["stdout", "stderr"] | None = None,
        wait: int | None = None,
    ) -> OutputPart:
        """Reads at most 1 MiB of the output of a background command, from an offset on.

        `wait` are the seconds to wait for output where there is none.
        """
        answer = await self._connection.call(
            "read_command_output",
            path={**self._path, "command": str(id)},
            query=without_none({"offset": offset, "stream": stream, "wait": wait}),
            timeout=60.0 + (wait or 0),
        )
        return OutputPart(
            data=answer.content,
            next_offset=int(answer.headers["wrenn-next-offset"]),
            dropped=int(answer.headers.get("wrenn-dropped", "0")),
            state=answer.headers.get("wrenn-command-state", "running"),
        )

    async def send_signal(self, id: str, signal: ProcessSignal) -> None:
        """Sends a signal to the process group of a background command."""
        path = {**self._path, "command": str(id)}
        await self._connection.call("signal_command", path=path, json_body={"signal": signal})

    async def kill(self, id: str) -> bool:
        """Kills a background command; false if there is none of that id, name or pid."""
        try:
            await self.send_signal(id, "SIGKILL")
        except NotFoundError:
            return False
        return True

    async def send_stdin(self, id: str, data: bytes | str) -> None:
        """Writes to the standard input of a background command that was started with it."""
        whole = as_bytes(data)
        path = {**self._path, "command": str(id)}
        headers = {"content-type": "application/octet-stream"}
        for begin in range(0, len(whole), MAX_STDIN_BODY):
            part = whole[begin : begin + MAX_STDIN_BODY]
            await self._connection.call(
                "write_command_stdin", path=path, body=part, headers=headers
            )

    async def close_stdin(self, id: str) -> None:
        """Ends the standard input of a background command."""
        await self._connection.call(
            "write_command_stdin",
            path={**self._path, "command": str(id)},
            query={"close": True},
            body=b"",
            headers={"content-type": "application/octet-stream"},
        )

    async def _resize(self, id: str, size: Size) -> None:
        path = {**self._path, "command": str(id)}
        await self._connection.call("resize_command", path=path, json_body=terminal_json(size))

    async def _start_background(self, start: dict[str, Any]) -> AsyncCommandHandle:
        started = await self._connection.json("start_command", path=self._path, json_body=start)
        return _AsyncBackgroundHandle(self, CommandInfo.from_json(started), 0)

    @staticmethod
    def _start(
        cmd: str | Sequence[str],
        envs: Mapping[str, str] | None,
        user: str | None,
        cwd: str | None,
        timeout: int | None,
    ) -> dict[str, Any]:
        program, args = command_words(cmd)
        fields = {"user": user, "cwd": cwd, "timeout_sec": timeout or None}
        return {"cmd": program, "args": args, "envs": dict(envs or {}), **without_none(fields)}


async def _feed(handle: _AsyncStreamHandle, data: bytes | None) -> None:
    """Writes all input. A command that ends before it has read it is no error."""
    if data is None:
        return
    with contextlib.suppress(WrennError):
        await handle.send_stdin(data)
        await handle.close_stdin()


_STREAM_START = {"type": "start", "encoding": "base64"}


class AsyncPty:
    """Terminals in a sandbox. They are background commands: a handle may go, they stay."""

    def __init__(self, commands: AsyncCommands) -> None:
        self._commands = commands

    async def create(
        self,
        size: Size = DEFAULT_SIZE,
        *,
        cmd: str | Sequence[str] | None = None,
        envs: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        timeout: int | None = None,
        name: str | None = None,
        keep_alive: bool = False,
    ) -> AsyncCommandHandle:
        """Starts a shell, or `cmd`, on a terminal. Its output is in `pty` of what comes."""
        words = _LOGIN_SHELL if cmd is None else cmd
        terminal = {**_TERMINAL_ENVS, **(envs or {})}
        start = self._commands._start(words, terminal, user, cwd, timeout)
        start = {**start, **without_none({"name": name}), "keep_alive": keep_alive}
        return await self._commands._start_background({**start, "terminal": terminal_json(size)})

    async def connect(self, id: str, *, offset: int | None = None) -> AsyncCommandHandle:
        """Follows a terminal; what is kept of its output comes first."""
        return await self._commands.connect(id, offset=offset)

    async def send_stdin(self, id: str, data: bytes | str) -> None:
        """Types into a terminal."""
        await self._commands.send_stdin(id, data)

    async def resize(self, id: str, size: Size) -> None:
        """Resizes a terminal."""
        await self._commands._resize(id, size)

    async def kill(self, id: str) -> bool:
        """Kills what runs on a terminal; false if it is not there."""
        return await self._commands.kill(id)


_TERMINAL_ENVS = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}

_LOGIN_SHELL = (
    "/bin/sh",
    "-c",
    "if command -v bash >/dev/null 2>&1; then exec bash -il; else exec sh -il; fi",
)
