"""Events: pages, and a stream that goes on over broken connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from .. import _io_async as io
from .._models import Event
from .._values import (
    SILENCE,
    LineSplitter,
    Patience,
    ServerSentEvents,
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
from .closing import AsyncClosing
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
"""Errors after which a request that changes nothing may be made again, as a stream connects."""

BREAKS = (ConnectionBrokenError, HostUnavailableError, UnreachableError)
"""Errors of a stream that has begun after which it connects again."""


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
        limit: int | None = None,
    ) -> AsyncIterator[Event]:
        """Lists events, oldest first, up to those that have just happened.

        `cursor` is that of an event: what comes behind it. `type` has types with commas between
        them; `sandbox.*` is all of a subject. `limit` is the number of events. Default: all.
        """
        query = without_none({"cursor": cursor, "type": type, "sandbox": sandbox, "since": since})
        left = limit
        while left is None or left > 0:
            query["limit"] = PAGE if left is None else min(PAGE, left)
            answer = await self._connection.call("list_events", query=query)
            page = parse_json(answer.content)
            for entry in page:
                yield Event.from_json(entry)
            left = None if left is None else left - len(page)
            query["cursor"] = answer.headers.get("x-next-cursor", "")
            if len(page) < query["limit"] or not query["cursor"]:
                return

    async def stream(
        self,
        *,
        cursor: str | None = None,
        type: str | None = None,
        sandbox: str | None = None,
        since: str | None = None,
    ) -> AsyncEventStream:
        """Follows events: those behind a cursor, or all that happen after this call has returned.

        When the connection breaks, it goes on behind the last event, for up to a minute without
        an answer. Keep `cursor` of the last event that you have handled to miss none over a
        restart of your own.
        """
        query = without_none({"cursor": cursor, "type": type, "sandbox": sandbox, "since": since})
        stream = AsyncEventStream(self._connection, query)
        await stream._connect()
        return stream


class AsyncEventStream(AsyncClosing):
    """Events as they happen."""

    def __init__(self, connection: AsyncConnection, query: dict[str, Any]) -> None:
        self._connection = connection
        self._query = query
        self._body: AsyncByteStream | None = None
        self._lines = LineSplitter()
        self._parser = ServerSentEvents()
        self._events: list[Event] = []
        self._is_closed = False
        self._patience = Patience(connection.patience)

    @property
    def cursor(self) -> str | None:
        """Cursor up to which all has come; `None` before the first message of the server."""
        cursor: str | None = self._query.get("cursor")
        return cursor

    async def _connect(self) -> AsyncByteStream:
        self._body = await self._connection.stream(
            "stream_events", query=self._query, is_endless=True, silence=SILENCE
        )
        self._lines = LineSplitter()
        self._parser = ServerSentEvents()
        return self._body

    async def _drop(self) -> None:
        """Ends a connection that is of no more use."""
        body = self._body
        self._body = None
        if body is not None:
            await body.aclose()

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._is_closed:
                raise StopAsyncIteration
            try:
                await self._receive()
            except WrennError as error:
                await self._drop()
                if self._is_closed:
                    raise StopAsyncIteration from None
                if not isinstance(error, GOES_ON_AFTER):
                    raise
                await io.sleep(self._patience.next_pause(error, io.monotonic()))
        self._patience.progressed()
        return self._events.pop(0)

    async def _receive(self) -> None:
        body = self._body or await self._connect()
        try:
            data = await body.__anext__()
        except StopAsyncIteration:
            # The server ends: another one has what follows.
            raise ConnectionBrokenError("the stream of events ended") from None
        self._patience.connected()
        for line in self._lines.feed(data):
            found = self._parser.feed(line.decode(errors="replace").rstrip("\r"))
            if self._parser.last_id is not None:
                self._query["cursor"] = self._parser.last_id
                # Only where the stream begins: a cursor says more.
                self._query.pop("since", None)
            if found is not None:
                self._add(*found)

    def _add(self, name: str, data: str) -> None:
        value = parse_json(data)
        if name == "error":
            detail = value.get("error", {})
            error: WrennError = error_from_code(detail.get("code", ""), detail.get("message", ""))
            raise error
        event = Event.from_json(value)
        self._query["cursor"] = event.cursor
        self._query.pop("since", None)
        self._events.append(event)

    async def aclose(self) -> None:
        """Ends the stream."""
        self._is_closed = True
        if self._body is not None:
            await self._body.aclose()
