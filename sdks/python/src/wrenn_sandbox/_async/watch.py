"""Changes of a directory as they happen."""

from __future__ import annotations

from typing import Any

from .. import _io_async as io
from .._values import FIRST_FRAME_TIMEOUT, WatchEvent, parse_json
from ..errors import ConnectionBrokenError, ProtocolError, error_from_code
from .closing import AsyncClosing


class AsyncWatch(AsyncClosing):
    """Changes of a directory as they happen."""

    def __init__(self, socket: io.WebSocket) -> None:
        self._socket = socket
        self._is_closed = False

    async def _start(self) -> None:
        event = await self._receive(FIRST_FRAME_TIMEOUT)
        if event is None or event.type != "started":
            raise ProtocolError("a watch that does not begin")

    def __aiter__(self) -> AsyncWatch:
        return self

    async def __anext__(self) -> WatchEvent:
        event = await self.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def next(self, timeout: float | None = None) -> WatchEvent | None:
        """Waits for the next change; `None` where the directory itself is gone, or after `stop`.

        A `timeout` that passes is an `OperationTimeoutError`; the watch goes on.
        """
        if self._is_closed:
            return None
        try:
            return await self._receive(timeout)
        except ConnectionBrokenError:
            if self._is_closed:
                return None
            raise

    async def _receive(self, timeout: float | None) -> WatchEvent | None:
        frame: dict[str, Any] = parse_json(await self._socket.recv(timeout))
        if frame["type"] == "error":
            await self.aclose()
            raise error_from_code(frame["code"], frame["data"])
        if frame["type"] == "ended":
            await self.aclose()
            return None
        return WatchEvent(
            type=frame["type"],
            path=frame.get("path"),
            from_path=frame.get("from"),
            is_directory=frame.get("is_directory", False),
            message=frame.get("data"),
        )

    async def stop(self) -> None:
        """Ends the watch."""
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the watch."""
        self._is_closed = True
        await self._socket.close()
