"""What blocking calls need of the system; `_io_async` has the same for awaited ones."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, TypeVar

import websockets
from websockets.sync.client import ClientConnection, connect

from ._net import (
    CLOSE_TIMEOUT,
    MAX_FRAME,
    broken,
    keep_alive,
    loopback_pair,
    opening_error,
    reset_on_close,
)
from ._values import CHUNK
from .errors import OperationTimeoutError, WrennError

T = TypeVar("T")

monotonic = time.monotonic
sleep = time.sleep
PortStream = socket.socket
ByteSource = Iterable[bytes]


def within(seconds: float | None, action: T) -> T:
    """Returns what is there already: blocking calls have limits of their own."""
    return action


def iterate(source: ByteSource) -> Iterator[bytes]:
    """Iterates over a source."""
    yield from source


def read_file(file: IO[bytes]) -> bytes:
    """Reads a part of a file."""
    return file.read(CHUNK)


def write_file(file: IO[bytes], data: bytes) -> None:
    """Writes to a file."""
    file.write(data)


def call_in_background(function: Callable[[], T]) -> T:
    """Calls a function."""
    return function()


class Task:
    """An action in a thread of its own."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=action, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits for its end, which the end of its connection brings."""
        self._thread.join(STOP_TIMEOUT)


STOP_TIMEOUT = 5.0
"""Seconds for a thread to notice that its connection is closed."""


class WebSocket:
    """A WebSocket whose errors are those of this package."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @classmethod
    def open(
        cls,
        url: str,
        headers: dict[str, str],
        tls: ssl.SSLContext | None,
        proxy: str | None,
        timeout: float,
    ) -> WebSocket:
        try:
            connection = connect(
                url,
                additional_headers=headers,
                ssl=tls,
                proxy=proxy or True,
                open_timeout=timeout,
                # A reader that is slow would miss the answers to pings; TCP finds dead peers.
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT,
                compression=None,
                max_size=MAX_FRAME,
                # Newer versions of the library warn where it is not a block.
            ).__enter__()
        except BaseException as error:
            known = opening_error(error, url)
            if known is None:
                raise
            raise known from error
        keep_alive(connection.socket)
        return cls(connection)

    def recv(self, timeout: float | None = None) -> str | bytes:
        try:
            return self._connection.recv(timeout)
        except websockets.ConnectionClosed as error:
            raise broken(error) from error
        except TimeoutError as error:
            raise OperationTimeoutError(f"it took longer than {timeout} seconds") from error

    def send(self, data: str | bytes) -> None:
        try:
            self._connection.send(data)
        except websockets.ConnectionClosed as error:
            raise broken(error) from error

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        """Closes without a word."""
        with contextlib.suppress(OSError):
            self._connection.socket.shutdown(socket.SHUT_RDWR)


def port_stream(web_socket: WebSocket) -> PortStream:
    """Returns a socket whose bytes pass through a WebSocket with binary frames."""
    outer, inner = loopback_pair()
    carry = _Carry(web_socket, inner)
    for action in (carry.to_sandbox, carry.from_sandbox):
        threading.Thread(target=carry.run, args=(action,), daemon=True).start()
    return outer


class _Carry:
    """Two threads, one for each direction; the last one closes both sides."""

    def __init__(self, web_socket: WebSocket, inner: socket.socket) -> None:
        self._web_socket = web_socket
        self._inner = inner
        self._lock = threading.Lock()
        self._running = 2
        self._failed = False

    def run(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, WrennError):
            self._failed = True
            reset_on_close(self._inner)
            self._web_socket.abort()
            with contextlib.suppress(OSError):
                self._inner.shutdown(socket.SHUT_RD)
        with self._lock:
            self._running -= 1
            is_last = self._running == 0
        if is_last:
            self._inner.close()
            self._web_socket.close()

    def to_sandbox(self) -> None:
        while not self._failed:
            data = self._inner.recv(CHUNK)
            self._web_socket.send(data)
            if not data:
                return

    def from_sandbox(self) -> None:
        while True:
            data = self._web_socket.recv()
            if not data:
                self._inner.shutdown(socket.SHUT_WR)
                return
            self._inner.sendall(data if isinstance(data, bytes) else data.encode())


class _DefaultClients:
    """Clients by their options."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[Any, Any] = {}

    def get(self, options: Any, make: Callable[[], T]) -> T:
        with self._lock:
            if options not in self._clients:
                self._clients[options] = make()
            client: T = self._clients[options]
            return client


default_clients = _DefaultClients()
