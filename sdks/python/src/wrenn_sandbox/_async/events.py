"""Events: pages, and a stream that goes on over broken connections."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator
from typing import Any

from .. import _io_async as io
from .._models import Event
from .._values import (
    PATIENCE,
    LineSplitter,
    ServerSentEvents,
    back_off,
    parse_json,
    without_none,
)
from ..errors import (
    AgentError,
    ConnectionBrokenError,
    HostUnavailableError,
    OperationTimeoutError,
    UnreachableError,
    WrennError,
    error_from_code,
)
from .connection import AsyncByteStream, AsyncConnection

PAGE = 1000
"""Entries of a page: the most that the API gives."""

GOES_ON_AFTER = (
    AgentError,
    ConnectionBrokenError,
    HostUnavailableError,
    OperationTimeoutError,
    UnreachableError,
)
"""Errors after which a stream that knows its place connects again."""


class AsyncEvents:
    """Changes of sandboxes, commands, templates, keys, webhooks and hosts."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(
        self,
        *,
        cursor: str | None = None,
        type: str | None = None,
        sandbox: str | None = None,
        since: str | None = None,
    ) -> AsyncIterator[Event]:
        """Lists events, oldest first, up to those that have just happened.

        `cursor` is that of an event: what comes behind it. `type` has types with commas between
        them; `sandbox.*` is all of a subject.
        """
        query = without_none(
            {"cursor": cursor, "type": type, "sandbox": sandbox, "since": since, "limit": PAGE}
        )
        while True:
            answer = await self._connection.call("list_events", query=query)
            page = parse_json(answer.content)
            for entry in page:
                yield Event.from_json(entry)
            query["cursor"] = answer.headers.get("x-next-cursor", "")
            if len(page) < PAGE or not query["cursor"]:
                return

    def stream(
        self,
        *,
        cursor: str | None = None,
        type: str | None = None,
        sandbox: str | None = None,
        since: str | None = None,
    ) -> AsyncEventStream:
        """Follows events, from now on or from a cursor on.

        When the connection breaks, it goes on behind the last event, for up to a minute without
        an answer. Keep `cursor` of the last event that you have handled to miss none over a
        restart of your own.
        """
        query = without_none({"cursor": cursor, "type": type, "sandbox": sandbox, "since": since})
        return AsyncEventStream(self._connection, query)


class AsyncEventStream:
    """Events as they happen."""

    def __init__(self, connection: AsyncConnection, query: dict[str, Any]) -> None:
        self._connection = connection
        self._query = query
        self._body: AsyncByteStream | None = None
        self._events: list[Event] = []
        self._is_closed = False
        self._start_over()

    def _start_over(self) -> None:
        self._body = None
        self._lines = LineSplitter()
        self._parser = ServerSentEvents()

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> Event:
        broken_since: float | None = None
        attempt = 0
        while not self._events:
            if self._is_closed:
                raise StopAsyncIteration
            try:
                await self._receive()
                broken_since = None
                attempt = 0
            except GOES_ON_AFTER:
                if self._is_closed:
                    raise StopAsyncIteration from None
                self._start_over()
                broken_since = broken_since or io.monotonic()
                if io.monotonic() - broken_since > PATIENCE:
                    raise
                await io.sleep(min(5.0, back_off(attempt)))
                attempt += 1
        return self._events.pop(0)

    async def _receive(self) -> None:
        if self._body is None:
            self._body = await self._connection.stream(
                "stream_events", query=self._query, is_endless=True
            )
        try:
            data = await self._body.__anext__()
        except StopAsyncIteration:
            # The server ends: another one has what follows.
            raise ConnectionBrokenError("the stream of events ended") from None
        for line in self._lines.feed(data):
            found = self._parser.feed(line.decode(errors="replace").rstrip("\r"))
            if found is not None:
                self._take(*found)

    def _take(self, name: str, data: str) -> None:
        value = parse_json(data)
        if name == "error":
            detail = value.get("error", {})
            error: WrennError = error_from_code(detail.get("code", ""), detail.get("message", ""))
            raise error
        event = Event.from_json(value)
        self._query["cursor"] = event.cursor
        # Only where the stream begins: a cursor says more.
        self._query.pop("since", None)
        self._events.append(event)

    async def aclose(self) -> None:
        """Ends the stream."""
        self._is_closed = True
        if self._body is not None:
            await self._body.aclose()

    async def __aenter__(self) -> AsyncEventStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.aclose()
