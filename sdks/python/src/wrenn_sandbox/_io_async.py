"""What awaited calls need of the system; `_io_sync` has the same for blocking ones."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import IO, Any, TypeVar

import websockets
from websockets.asyncio.client import ClientConnection, connect

from ._net import (
    CLOSE_TIMEOUT,
    MAX_FRAME,
    broken,
    keep_alive,
    loopback_pair,
    opening_error,
    reset_on_close,
)
from ._values import CHUNK, SILENCE
from .errors import ConnectionBrokenError, OperationTimeoutError, WrennError

T = TypeVar("T")

monotonic = time.monotonic
sleep = asyncio.sleep
PortStream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ByteSource = Iterable[bytes] | AsyncIterable[bytes]


async def within(seconds: float | None, action: Awaitable[T]) -> T:
    """Awaits an action for so long at most."""
    try:
        if sys.version_info < (3, 11):
            return await asyncio.wait_for(action, seconds)
        # `wait_for` of 3.11 takes no notice of a cancellation that comes with the result.
        async with asyncio.timeout(seconds):
            return await action
    except (asyncio.TimeoutError, TimeoutError) as error:
        if isinstance(error, WrennError):
            raise
        raise OperationTimeoutError(f"it took longer than {seconds} seconds") from error


async def iterate(source: ByteSource) -> AsyncIterator[bytes]:
    """Iterates over a source of either kind."""
    if isinstance(source, AsyncIterable):
        async for part in source:
            yield part
    else:
        for part in source:
            yield part


async def read_file(file: IO[bytes]) -> bytes:
    """Reads a part of a file, without blocking others."""
    return await asyncio.to_thread(file.read, CHUNK)


async def write_file(file: IO[bytes], data: bytes) -> None:
    """Writes to a file, without blocking others."""
    await asyncio.to_thread(file.write, data)


async def call_in_background(function: Callable[[], T]) -> T:
    """Calls a function that takes its time."""
    return await asyncio.to_thread(function)


class Task:
    """An action beside others."""

    def __init__(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = asyncio.ensure_future(action())

    async def stop(self) -> None:
        """Ends it, and waits for that."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class _Connect(connect):
    """Opens a connection to the given address alone: a redirect would take the key elsewhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Connection(ClientConnection):
    """A connection that knows when the last byte came; pings of the server are bytes, too."""

    heard_at = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard_at = monotonic()
        super().data_received(data)


class WebSocket:
    """A WebSocket whose errors are those of this package.

    It is broken when nothing comes for `SILENCE` while a message is waited for. That time begins
    anew with each wait: a slow reader does not read the pings of the server.
    """

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._is_silent = False

    @classmethod
    async def open(
        cls,
        url: str,
        headers: dict[str, str],
        tls: ssl.SSLContext | None,
        proxy: str | None,
        timeout: float,
    ) -> WebSocket:
        try:
            connection = await _Connect(
                url,
                additional_headers=headers,
                ssl=tls,
                proxy=proxy,
                open_timeout=timeout,
                # A reader that is slow would miss the answers to pings; the server sends its own.
                ping_interval=None,
                create_connection=_Connection,
                close_timeout=CLOSE_TIMEOUT,
                compression=None,
                max_size=MAX_FRAME,
                process_exception=lambda error: error,
            )
        except BaseException as error:
            known = opening_error(error, url)
            if known is None:
                raise
            raise known from error
        assert isinstance(connection, _Connection)
        keep_alive(connection.transport.get_extra_info("socket"))
        return cls(connection)

    async def recv(self, timeout: float | None = None) -> str | bytes:
        self._connection.heard_at = monotonic()
        self._abort_if_silent()
        try:
            return await within(timeout, self._connection.recv())
        except websockets.ConnectionClosed as error:
            if self._is_silent:
                text = f"nothing came from the server for {SILENCE:g} seconds"
                raise ConnectionBrokenError(text) from error
            raise broken(error) from error
        finally:
            self._watching.cancel()

    def _abort_if_silent(self) -> None:
        left = self._connection.heard_at + SILENCE - monotonic()
        if left <= 0:
            self._is_silent = True
            self._connection.transport.abort()
            return
        self._watching = asyncio.get_running_loop().call_later(left, self._abort_if_silent)

    async def send(self, data: str | bytes) -> None:
        try:
            await self._connection.send(data)
        except websockets.ConnectionClosed as error:
            raise broken(error) from error

    async def close(self, *, drops_unsent: bool = False) -> None:
        """Closes the connection; resets it if the other side does not answer that in time.

        With `drops_unsent` it does not wait until the other side has taken what was sent.
        """
        if drops_unsent and self._connection.transport.get_write_buffer_size() > 0:
            await self.abort()
            return
        try:
            # The limit of the library begins when all that was sent has been taken.
            await asyncio.wait_for(self._connection.close(), CLOSE_TIMEOUT)
        except (asyncio.TimeoutError, TimeoutError):
            await self.abort()

    async def abort(self) -> None:
        """Resets the connection, also where the other side does not read."""
        connection: socket.socket | None = self._connection.transport.get_extra_info("socket")
        if connection is not None:
            reset_on_close(connection)
        self._connection.transport.abort()


async def port_stream(web_socket: WebSocket) -> PortStream:
    """Returns reader and writer of what passes through a WebSocket with binary frames."""
    outer, inner = loopback_pair()
    is_closed = await start_carrying(web_socket, inner)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(
        lambda: asyncio.StreamReaderProtocol(reader), sock=outer
    )
    return reader, _PortWriter(transport, protocol, reader, loop, is_closed)


class _PortWriter(asyncio.StreamWriter):
    """A writer whose end is told from that of its direction alone."""

    def __init__(
        self,
        transport: Any,
        protocol: Any,
        reader: asyncio.StreamReader,
        loop: asyncio.AbstractEventLoop,
        is_closed: asyncio.Event,
    ) -> None:
        super().__init__(transport, protocol, reader, loop)
        self._is_port_closed = is_closed

    def close(self) -> None:
        super().close()
        self._is_port_closed.set()


async def start_carrying(web_socket: WebSocket, inner: socket.socket) -> asyncio.Event:
    """Starts to carry bytes between a socket and a WebSocket, in both directions.

    The event that it returns is to be set when the other end of the socket is closed: to the
    socket, a close looks as the end of one direction does.
    """
    reader, writer = await asyncio.open_connection(sock=inner)
    is_closed = asyncio.Event()
    task = asyncio.ensure_future(_carry(web_socket, reader, writer, is_closed))
    # A loop has only weak references to its tasks.
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)
    return is_closed


_TASKS: set[asyncio.Future[None]] = set()

LINGER = 60.0
"""Seconds for the sandbox to take what was written before a close."""


async def _carry(
    web_socket: WebSocket,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    is_closed: asyncio.Event,
) -> None:
    async def to_sandbox() -> None:
        while True:
            data = await reader.read(CHUNK)
            await web_socket.send(data)
            if not data:
                return

    async def from_sandbox() -> None:
        while True:
            data = await web_socket.recv()
            if not data:
                writer.write_eof()
                return
            writer.write(data if isinstance(data, bytes) else data.encode())
            await writer.drain()

    sending = asyncio.ensure_future(to_sandbox())
    receiving = asyncio.ensure_future(from_sandbox())

    async def until_closed() -> None:
        await is_closed.wait()
        await asyncio.wait([sending], timeout=LINGER)

    closing = asyncio.ensure_future(until_closed())
    both = asyncio.gather(sending, receiving)
    try:
        waited: list[asyncio.Future[Any]] = [both, closing]
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if both in done:
            await both
        await web_socket.close()
    except (OSError, WrennError):
        reset_on_close(writer.get_extra_info("socket"))
        await web_socket.abort()
    finally:
        for task in (sending, receiving, closing):
            task.cancel()
        await asyncio.gather(both, return_exceptions=True)
        writer.close()


class _DefaultClients:
    """Clients by their options, one set for each event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_loop: dict[asyncio.AbstractEventLoop, dict[Any, Any]] = {}

    def get(self, options: Any, make: Callable[[], T]) -> T:
        with self._lock:
            # Their clients have connections of them: no weak reference would ever go.
            for loop in [loop for loop in self._by_loop if loop.is_closed()]:
                del self._by_loop[loop]
            clients = self._by_loop.setdefault(asyncio.get_running_loop(), {})
            if options not in clients:
                clients[options] = make()
            client: T = clients[options]
            return client


default_clients = _DefaultClients()
