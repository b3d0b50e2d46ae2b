"""Logs of a sandbox."""

from __future__ import annotations

from .._models import LogEntry
from .._values import LineSplitter, parse_json
from .closing import AsyncClosing
from .connection import AsyncByteStream


class AsyncLogs(AsyncClosing):
    """Lines of a log."""

    def __init__(self, stream: AsyncByteStream) -> None:
        self._stream = stream
        self._lines = LineSplitter()
        self._entries: list[LogEntry] = []

    def __aiter__(self) -> AsyncLogs:
        return self

    async def __anext__(self) -> LogEntry:
        while not self._entries:
            for line in self._lines.feed(await self._stream.__anext__()):
                if line.strip():
                    self._entries.append(LogEntry.from_json(parse_json(line)))
        return self._entries.pop(0)

    async def aclose(self) -> None:
        """Ends the stream."""
        await self._stream.aclose()
