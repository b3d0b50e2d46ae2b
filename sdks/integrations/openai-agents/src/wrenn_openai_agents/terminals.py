"""Commands of a session that go on while the model does other things, with or without a terminal.

Each is a background command of the sandbox, followed by a task that keeps its output until the
model reads it. They end with the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from agents.sandbox.errors import PtySessionNotFoundError
from agents.sandbox.session.pty_output import collect_pty_output
from agents.sandbox.session.pty_types import (
    PTY_PROCESSES_MAX,
    PtyExecUpdate,
    allocate_pty_process_id,
    clamp_pty_yield_time_ms,
    process_id_to_prune_from_meta,
    resolve_pty_write_yield_time_ms,
)
from wrenn_sandbox import AsyncCommandHandle, WrennError
from wrenn_sandbox.errors import OutputLostError

from .convert import transport_error

if TYPE_CHECKING:
    from .session import WrennSandboxSession

START_YIELD = 10.0
"""Seconds until a command that was started is reported on, unless told otherwise."""

WRITE_YIELD = 0.25
"""The same after input."""

MAX_UNREAD = 1024 * 1024
"""Bytes of output that are kept until they are read; the oldest go first."""


class _Process:
    def __init__(self, handle: AsyncCommandHandle, tty: bool) -> None:
        self.handle = handle
        self.tty = tty
        self.chunks: deque[bytes] = deque()
        self.lock = asyncio.Lock()
        self.notify = asyncio.Event()
        self.has_ended = False
        self.last_used = time.monotonic()
        self.task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        unread = 0
        while not self.has_ended:
            try:
                async for chunk in self.handle.chunks():
                    async with self.lock:
                        self.chunks.append(chunk.data)
                        unread = sum(map(len, self.chunks))
                        while unread > MAX_UNREAD and len(self.chunks) > 1:
                            unread -= len(self.chunks.popleft())
                    self.notify.set()
                self.has_ended = True
            except OutputLostError:
                # The sandbox keeps the last 32 MiB; what follows is still of use.
                continue
            except WrennError as error:
                async with self.lock:
                    self.chunks.append(f"\nThe command is lost: {error}\n".encode())
                self.has_ended = True
        self.notify.set()

    async def end(self) -> None:
        with contextlib.suppress(WrennError):
            if self.handle.exit_code is None:
                await self.handle.kill()
            await self.handle.disconnect()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Terminals:
    """The commands of a session that go on, by the numbers that the model knows them by."""

    def __init__(self, session: WrennSandboxSession) -> None:
        self._session = session
        self._processes: dict[int, _Process] = {}

    async def start(
        self,
        words: list[str],
        surroundings: dict[str, Any],
        tty: bool,
        yield_time_s: float | None,
        max_output_tokens: int | None,
    ) -> PtyExecUpdate:
        """Starts a command, and returns what it has written after a while."""
        sandbox = self._session.sandbox
        await self._prune()
        try:
            if tty:
                handle = await sandbox.pty.create(cmd=words, keep_alive=True, **surroundings)
            else:
                handle = await sandbox.commands.run(
                    words, background=True, keep_alive=True, **surroundings
                )
        except WrennError as error:
            raise transport_error(words, error) from error
        number = allocate_pty_process_id(set(self._processes))
        self._processes[number] = _Process(handle, tty)
        seconds = START_YIELD if yield_time_s is None else yield_time_s
        milliseconds = clamp_pty_yield_time_ms(int(seconds * 1000))
        return await self._collect(number, milliseconds, max_output_tokens)

    async def write(
        self,
        number: int,
        chars: str,
        yield_time_s: float | None,
        max_output_tokens: int | None,
    ) -> PtyExecUpdate:
        """Types into a terminal, and returns what came since the last time."""
        process = self._processes.get(number)
        if process is None:
            raise PtySessionNotFoundError(session_id=number)
        if chars:
            if not process.tty:
                raise RuntimeError("stdin is not available for this process")
            await process.handle.send_stdin(chars)
        process.last_used = time.monotonic()
        seconds = WRITE_YIELD if yield_time_s is None else yield_time_s
        milliseconds = resolve_pty_write_yield_time_ms(
            yield_time_ms=int(seconds * 1000), input_empty=not chars
        )
        return await self._collect(number, milliseconds, max_output_tokens)

    async def end_all(self) -> None:
        """Ends all of them."""
        processes = list(self._processes.values())
        self._processes.clear()
        await asyncio.gather(*(process.end() for process in processes))

    async def _collect(
        self, number: int, milliseconds: int, max_output_tokens: int | None
    ) -> PtyExecUpdate:
        process = self._processes[number]
        output, tokens, is_closed = await collect_pty_output(
            output_chunks=process.chunks,
            output_lock=process.lock,
            output_notify=process.notify,
            is_done=lambda: process.has_ended,
            yield_time_ms=milliseconds,
            max_output_tokens=max_output_tokens,
        )
        if not is_closed:
            return PtyExecUpdate(number, output, None, tokens)
        self._processes.pop(number, None)
        code = process.handle.exit_code
        await process.end()
        return PtyExecUpdate(None, output, 1 if code is None else code, tokens)

    async def _prune(self) -> None:
        """Ends the one that was not used for longest where there are too many."""
        if len(self._processes) < PTY_PROCESSES_MAX:
            return
        meta = [(n, p.last_used, p.has_ended) for n, p in self._processes.items()]
        number = process_id_to_prune_from_meta(meta)
        if number is not None:
            await self._processes.pop(number).end()
