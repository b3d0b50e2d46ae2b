"""Sockets and WebSockets: what blocking and awaited calls share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import urllib.request
from urllib.parse import urlsplit

import websockets
from websockets.exceptions import ProxyError

from ._settings import is_loopback, origin
from .errors import (
    ConnectionBrokenError,
    OperationTimeoutError,
    ProtocolError,
    UnreachableError,
    WrennError,
    error_from_answer,
)

MAX_FRAME = 4 * 1024 * 1024
"""Largest frame that is accepted; the server sends far smaller ones."""


CLOSE_TIMEOUT = 3.0
"""Seconds for the other side to answer that a WebSocket is closed."""


def opening_error(error: BaseException, url: str) -> WrennError | None:
    """Returns the error of a WebSocket that did not open; `None` if it is none of that."""
    server = origin(url)
    if isinstance(error, websockets.InvalidStatus):
        response = error.response
        if 300 <= response.status_code < 400:
            return redirect_error(url, response.headers.get("location"))
        return error_from_answer(
            response.status_code, bytes(response.body or b""), response.headers
        )
    if isinstance(error, ProxyError):
        return UnreachableError(f"no connection to {server} through the proxy: {error}")
    if isinstance(error, websockets.InvalidHandshake | websockets.ConnectionClosed | EOFError):
        return ConnectionBrokenError(f"the connection to {server} broke off: {error}")
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return ConnectionBrokenError(f"the connection to {server} broke off: {error}")
    # With Python 3.10 the one of asyncio is another class.
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return OperationTimeoutError(f"{server} does not answer")
    if isinstance(error, OSError):
        return UnreachableError(f"no connection to {server}: {error}; is the server running?")
    return None


def environment_proxy(url: str) -> str | None:
    """Returns the proxy that the environment names for requests and WebSockets to an address.

    There is none for addresses of this machine: a key of its own would go there.
    """
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or ""
    if is_loopback(url) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def redirect_error(url: str, location: str | None) -> ProtocolError:
    return ProtocolError(
        f"{url} redirects to {location}, which is not followed: it would take the key there"
    )


def broken(error: BaseException) -> ConnectionBrokenError:
    return ConnectionBrokenError(
        f"the connection to the server broke off ({error}): the sandbox stopped, or the server did"
    )


KEEP_ALIVE_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]
"""Options with which the kernel finds a dead peer behind an idle stream, within a minute."""


def keep_alive(connection: socket.socket | None) -> None:
    """Has the kernel find a dead peer behind an idle stream."""
    if connection is None:
        return
    # It may be closed already, which the next read tells.
    with contextlib.suppress(OSError):
        for level, name, value in KEEP_ALIVE_OPTIONS:
            connection.setsockopt(level, name, value)


def loopback_pair() -> tuple[socket.socket, socket.socket]:
    """Returns two connected TCP sockets: unlike those of `socketpair` they can be reset."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        first = socket.create_connection(listener.getsockname())
        second, peer = listener.accept()
    if peer != first.getsockname():
        first.close()
        second.close()
        raise UnreachableError("another program took the local socket; try again")
    for end in (first, second):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return first, second


def reset_on_close(connection: socket.socket) -> None:
    """Has the other end read an error, not an end, when this one is closed."""
    # It may be closed already.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
