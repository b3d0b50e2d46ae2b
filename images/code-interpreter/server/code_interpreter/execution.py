"""The bounded stream of events of one cell, from its kernel to its client."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator

from . import events
from .events import Event

# Most bytes of output and results that a cell may send. A client that reads slowly lets all of them wait in memory.
MAX_OUTPUT_BYTES = int(os.environ.get("CODE_INTERPRETER_MAX_OUTPUT_MIB", "64")) << 20


class Execution:
    """Events of one cell. The kernel publishes, the client reads; the end comes once."""

    def __init__(self, max_bytes: int = MAX_OUTPUT_BYTES) -> None:
        self._pending: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._room = max_bytes
        self._max_bytes = max_bytes
        self._is_truncated = False
        self.has_failed = False
        self.is_finished = False

    def publish(self, event: Event) -> None:
        """Adds an event. Beyond the limit output and results are left out, which is told once."""
        if self.is_finished:
            return
        if event["type"] == "error":
            # Kernels tell an error twice, on two sockets.
            if self.has_failed:
                return
            self.has_failed = True
        line = events.encode_line(event)
        if event["type"] in ("stdout", "stderr", "result"):
            if len(line) > self._room:
                self._truncate(event)
                return
            self._room -= len(line)
        self._append(line)

    def fail(self, name: str, value: str, traceback: str = "") -> None:
        """Publishes an error and ends the stream."""
        self.publish(events.error(name, value, traceback))
        self.finish()

    def finish(self) -> None:
        """Ends the stream; what is published afterwards is dropped."""
        self.is_finished = True
        self._changed.set()

    async def wait_finished(self) -> None:
        while not self.is_finished:
            self._changed.clear()
            await self._changed.wait()

    async def read_chunks(self, keepalive_sec: float) -> AsyncIterator[bytes]:
        """Yields lines, all that wait at once, and a keep-alive after each while without any."""
        while True:
            if self._pending:
                chunk = b"".join(self._pending)
                self._pending.clear()
                yield chunk
            elif self.is_finished:
                yield events.encode_line(events.END)
                return
            else:
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), keepalive_sec)
                except asyncio.TimeoutError:
                    yield events.encode_line(events.KEEPALIVE)

    def _truncate(self, event: Event) -> None:
        if event["type"] != "result":
            # A character takes at most 12 bytes, as an escaped surrogate pair.
            text = event["text"]
            fits = self._room if text.isascii() and '"' not in text else self._room // 12
            self._append(events.encode_line({**event, "text": text[:fits]}))
        # No smaller output may follow what was left out: it would look complete.
        self._room = 0
        if not self._is_truncated:
            self._is_truncated = True
            text = f"[output and results beyond {self._max_bytes >> 20} MiB are left out]\n"
            self._append(events.encode_line(events.output("stderr", text)))

    def _append(self, line: bytes) -> None:
        self._pending.append(line)
        self._changed.set()
