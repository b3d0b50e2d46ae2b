"""Commands: to their end, as streams, in the background, and on terminals.

Two kinds of handles have one surface. A *stream* (`exec/stream`) is a command that ends with its
connection; a slow reader slows it down, and nothing of its output is lost. A *background command*
belongs to the sandbox: a handle follows it, and attaches again where it was when the connection
breaks. Its last 32 MiB of output are kept.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from .. import _io_async as io
from .._models import CommandInfo, ProcessSignal
from .._values import (
    COMMAND_TIMEOUT,
    MAX_STDIN_BODY,
    UNSET,
    CommandResult,
    OutputPart,
    PtySize,
    Unset,
    as_bytes,
    command_words,
    terminal_json,
    without_none,
)
from ..errors import (
    NotFoundError,
    WrennError,
)
from .connection import AsyncConnection
from .handles import (
    AsyncBackgroundHandle,
    AsyncCommandHandle,
    AsyncStreamHandle,
    OnOutput,
    Size,
)

DEFAULT_SIZE = PtySize(24, 80)
"""Size of a terminal, unless told otherwise."""


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
        handle = AsyncStreamHandle(self, is_terminal=False)
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
        handle = AsyncStreamHandle(self, is_terminal=pty is not None)
        start = {**_STREAM_START, **self._start(cmd, envs, user, cwd, timeout), "stdin": stdin}
        if pty is not None:
            start = {**start, "terminal": terminal_json(pty)}
        try:
            await handle.start(start)
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
        return AsyncBackgroundHandle(self, info, begin)

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
        return AsyncBackgroundHandle(self, CommandInfo.from_json(started), 0)

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


async def _feed(handle: AsyncStreamHandle, data: bytes | None) -> None:
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

    async def connect(
        self, id: str, *, offset: int | None = None, tail_bytes: int | None = None
    ) -> AsyncCommandHandle:
        """Follows a terminal; what is kept of its output comes first.

        It begins at `offset`, or so many bytes before the end as `tail_bytes` says.
        """
        return await self._commands.connect(id, offset=offset, tail_bytes=tail_bytes)

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
