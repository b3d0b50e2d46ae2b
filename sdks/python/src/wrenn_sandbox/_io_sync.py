"""What blocking calls need of the system; `_io_async` has the same for awaited ones.

WebSockets of blocking calls are those of `_io_async`, driven by one event loop in a thread of its
own: sending and receiving on one connection are independent there. In a blocking connection of
`websockets` they are not: receiving takes the lock that a send holds until the other side reads,
and a command that writes before it reads would never end.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import IO, Any, TypeVar

from . import _io_async
from ._net import loopback_pair
from ._values import CHUNK
from .errors import ConnectionBrokenError

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


class _EventLoop:
    """An event loop in a thread of its own, which runs until the interpreter ends."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wrenn-sandbox", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    def _run(self) -> None:
        asyncio.run(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._is_ready.set()
        await self._end.wait()

    def is_usable(self) -> bool:
        """Returns false in a process that was forked: it has none of the threads."""
        return self._pid == os.getpid() and self._thread.is_alive()

    def call(self, action: Coroutine[Any, Any, T]) -> T:
        """Runs an action on the loop, and waits for its end."""
        if not self.is_usable():
            action.close()
            raise ConnectionBrokenError("the connection belongs to the process before the fork")
        future = asyncio.run_coroutine_threadsafe(action, self._loop)
        try:
            return future.result()
        finally:
            # Ctrl-C ends the wait, so it ends the action too.
            future.cancel()

    def call_soon(self, function: Callable[[], object]) -> None:
        """Has the loop call a function, unless it has ended."""
        with contextlib.suppress(RuntimeError):
            if self.is_usable():
                self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """Ends the loop and what runs on it."""
        if self.is_usable():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(STOP_TIMEOUT)


class _EventLoops:
    """The event loop of this process, made at its first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: _EventLoop | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # Another thread of the parent may have held the lock.
        self._lock = threading.Lock()
        self._loop = None

    def get(self) -> _EventLoop:
        with self._lock:
            if self._loop is None or not self._loop.is_usable():
                self._loop = _EventLoop()
                atexit.register(self._loop.stop)
            return self._loop


_event_loops = _EventLoops()


class WebSocket:
    """A WebSocket whose errors are those of this package, for any thread."""

    def __init__(self, loop: _EventLoop, inner: _io_async.WebSocket) -> None:
        self._loop = loop
        self._inner = inner

    @classmethod
    def open(
        cls,
        url: str,
        headers: dict[str, str],
        tls: ssl.SSLContext | None,
        proxy: str | None,
        timeout: float,
    ) -> WebSocket:
        loop = _event_loops.get()
        return cls(loop, loop.call(_io_async.WebSocket.open(url, headers, tls, proxy, timeout)))

    def recv(self, timeout: float | None = None) -> str | bytes:
        return self._loop.call(self._inner.recv(timeout))

    def send(self, data: str | bytes) -> None:
        self._loop.call(self._inner.send(data))

    def close(self, *, drops_unsent: bool = False) -> None:
        self._loop.call(self._inner.close(drops_unsent=drops_unsent))

    def abort(self) -> None:
        """Resets the connection, also where the other side does not read."""
        self._loop.call(self._inner.abort())

    def carry(self, inner: socket.socket) -> Callable[[], None]:
        """Has the loop carry bytes between a socket and this WebSocket.

        What it returns is to be called when the other end of the socket is closed.
        """
        is_closed = self._loop.call(_io_async.start_carrying(self._inner, inner))
        return lambda: self._loop.call_soon(is_closed.set)


class _PortSocket(socket.socket):
    """A socket whose close is told from the end of its direction alone."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        super().close()
        # Files that were made of the socket keep it open.
        if self.fileno() == -1 and self.on_close is not None:
            self.on_close()
            self.on_close = None


def port_stream(web_socket: WebSocket) -> PortStream:
    """Returns a socket whose bytes pass through a WebSocket with binary frames."""
    outer, inner = loopback_pair()
    port = _PortSocket(fileno=outer.detach())
    port.on_close = web_socket.carry(inner)
    return port


class _DefaultClients:
    """Clients by their options."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[Any, Any] = {}

    def get(self, options: Any, make: Callable[[], T]) -> T:
        # A process that was forked shares no connection with its parent.
        key = (os.getpid(), options)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = make()
            client: T = self._clients[key]
            return client


default_clients = _DefaultClients()
