"""Requests to a server: limits of time, retries, and the only place that turns answers into errors.

A request is tried again as sdks/README.md says. Nothing is kept between two requests but a pool of
connections, so a call that is cancelled leaves nothing behind on this side.
"""

from __future__ import annotations

import copy
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import httpx

from .. import _io_async as io
from .. import _settings
from .._net import KEEP_ALIVE_OPTIONS, environment_proxy, redirect_error
from .._operations import OPERATIONS, Operation
from .._values import ATTEMPTS, FAST_TIMEOUT, PATIENCE, SLOW_TIMEOUT, back_off, parse_json
from ..errors import (
    ConnectionBrokenError,
    CredentialsError,
    NotFoundError,
    OperationTimeoutError,
    ProtocolError,
    UnreachableError,
    WrennError,
    error_from_answer,
)
from .closing import AsyncClosing

CONNECT_TIMEOUT = 10.0
"""Seconds until a connection is made."""

MAX_ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are read; an error of the API is far smaller."""

WITHOUT_LIMIT = float("inf")
"""Timeout of calls that carry data of any size: only each read and write has a limit."""

Body = bytes | Callable[[], AsyncIterator[bytes]]

try:
    _VERSION = version("wrenn-sandbox")
except PackageNotFoundError:
    _VERSION = "0"


class _Retry(Exception):
    """An attempt that failed, and may be made again after a pause."""

    def __init__(self, error: WrennError) -> None:
        super().__init__(str(error))
        self.error = error


class Answer(NamedTuple):
    """Head and body of an answer."""

    status: int
    headers: httpx.Headers
    content: bytes


class AsyncConnection:
    """A server, a key, and a pool of connections."""

    def __init__(
        self,
        *,
        api_url: str | None = None,
        api_key: str | None = None,
        request_timeout: float | None = None,
        proxy: str | None = None,
        ca_file: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        url, key = _settings.load(api_url, api_key)
        self.url = url
        self.request_timeout = request_timeout
        self.patience = PATIENCE
        """Seconds without an answer after which streams and uploads are given up."""
        self._proxy = proxy or environment_proxy(url)
        self._tls = _tls_context(url, ca_file)
        self._headers = {
            "x-api-key": key,
            "user-agent": f"wrenn-python/{_VERSION}",
            **(headers or {}),
        }
        try:
            self._http = httpx.AsyncClient(
                headers=self._headers,
                transport=httpx.AsyncHTTPTransport(
                    # For plain HTTP no certificates are loaded: with none, all TLS fails.
                    verify=self._tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                    proxy=self._proxy,
                    limits=httpx.Limits(max_connections=200, max_keepalive_connections=20),
                    socket_options=KEEP_ALIVE_OPTIONS,
                ),
                # Its proxies are known; those for loopback would see the key of this machine.
                trust_env=False,
                follow_redirects=False,
            )
        except UnicodeEncodeError as error:
            raise CredentialsError(
                "the API key has characters that no key has; it looks like wrn_ and 40 hex digits"
            ) from error

    async def aclose(self) -> None:
        await self._http.aclose()

    def with_request_timeout(self, seconds: float | None) -> AsyncConnection:
        """Returns a connection over the same pool whose calls have another limit of time."""
        other = copy.copy(self)
        other.request_timeout = seconds
        return other

    def route(
        self,
        operation: Operation,
        path: Mapping[str, str],
        query: Mapping[str, Any] | None,
        scheme: str = "http",
    ) -> str:
        """Returns the URL of a route. Every value is escaped, so that none can leave its place."""
        escaped = {name: quote(value, safe="") for name, value in path.items()}
        if any(value in ("", ".", "..") for value in escaped.values()):
            raise NotFoundError(f"{dict(path)} names nothing")
        url = self.url + operation.path.format(**escaped)
        if scheme == "ws":
            url = "ws" + url.removeprefix("http")
        values = {name: _query(value) for name, value in (query or {}).items()}
        values = {name: value for name, value in values.items() if value is not None}
        return f"{url}?{urlencode(values, doseq=True)}" if values else url

    async def call(
        self,
        name: str,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        json_body: Any = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        deadline: float = WITHOUT_LIMIT,
        is_repeatable: bool | None = None,
        is_used_up: bool = False,
    ) -> Answer:
        """Sends a request, again where it may be, and returns the answer with its body.

        `is_used_up`: the body is a stream of the caller, which cannot be sent twice. It ends at
        the `deadline`, whatever time it has of its own.
        """

        async def attempt(deadline: float, operation: Operation) -> Answer:
            response = await self._send(operation, path, query, json_body, body, headers, deadline)
            try:
                content = await _read(response, deadline, operation.is_repeatable)
            finally:
                await response.aclose()
            return Answer(response.status_code, response.headers, content)

        answer: Answer = await self._with_retries(
            name, attempt, timeout, is_repeatable, is_used_up, deadline
        )
        return answer

    async def stream(
        self,
        name: str,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        json_body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        is_endless: bool = False,
        silence: float | None = None,
    ) -> AsyncByteStream:
        """Sends a request, and returns the body of the answer as it comes.

        `is_endless`: the next part may come at any time, or within `silence` seconds where the
        server says so often that it is there.
        """

        async def attempt(deadline: float, operation: Operation) -> AsyncByteStream:
            response = await self._send(operation, path, query, json_body, None, headers, deadline)
            if is_endless:
                response.request.extensions["timeout"]["read"] = silence
            return AsyncByteStream(response)

        stream: AsyncByteStream = await self._with_retries(name, attempt, timeout)
        return stream

    async def json(self, name: str, **request: Any) -> Any:
        """Sends a request, and returns the JSON of the answer."""
        response = await self.call(name, **request)
        return parse_json(response.content)

    async def delete(self, name: str, path: Mapping[str, str], **request: Any) -> bool:
        """Sends a `DELETE`; false if there is nothing to delete."""
        try:
            await self.call(name, path=path, **request)
        except NotFoundError:
            return False
        return True

    async def web_socket(
        self, name: str, *, path: Mapping[str, str], query: Mapping[str, Any] | None = None
    ) -> io.WebSocket:
        """Opens a WebSocket."""
        headers = {key: value for key, value in self._headers.items() if key != "user-agent"}

        async def attempt(deadline: float, operation: Operation) -> io.WebSocket:
            url = self.route(operation, path, query, scheme="ws")
            left = max(0.1, deadline - io.monotonic())
            try:
                return await io.WebSocket.open(
                    url, headers, self._tls, self._proxy, min(left, CONNECT_TIMEOUT * 3)
                )
            except WrennError as error:
                raise _classified(error, is_repeatable=True) from error

        # Nothing has begun before the WebSocket is open.
        opened: io.WebSocket = await self._with_retries(name, attempt, None, True)
        return opened

    async def _with_retries(
        self,
        name: str,
        attempt: Callable[[float, Operation], Any],
        timeout: float | None,
        is_repeatable: bool | None = None,
        is_used_up: bool = False,
        until: float = WITHOUT_LIMIT,
    ) -> Any:
        operation = OPERATIONS[name]
        if is_repeatable is not None:
            operation = operation._replace(is_repeatable=is_repeatable)
        limit = self.request_timeout or timeout or FAST_TIMEOUT
        deadline = min(io.monotonic() + limit, until)
        number = 0
        may_be_done = False
        while True:
            try:
                return await attempt(deadline, operation)
            except _Retry as failed:
                error = failed.error
                pause = back_off(number, error._retry_after)
                may_be_done = may_be_done or _may_be_done(error)
            except NotFoundError:
                # What an attempt before this one deleted is no longer there.
                if may_be_done and operation.method == "DELETE":
                    return Answer(204, httpx.Headers(), b"")
                raise
            number += 1
            if number >= ATTEMPTS or is_used_up or io.monotonic() + pause >= deadline:
                raise error
            await io.sleep(pause)

    async def _send(
        self,
        operation: Operation,
        path: Mapping[str, str] | None,
        query: Mapping[str, Any] | None,
        json_body: Any,
        body: Body | None,
        headers: Mapping[str, str] | None,
        deadline: float,
    ) -> httpx.Response:
        url = self.route(operation, path or {}, query)
        fields = dict(headers or {})
        content: Any = body() if callable(body) else body
        if json_body is not None:
            content = json.dumps(json_body).encode()
            fields["content-type"] = "application/json"
        left = max(0.05, deadline - io.monotonic())
        each = min(left, SLOW_TIMEOUT)
        times = httpx.Timeout(each, connect=min(left, CONNECT_TIMEOUT))
        request = self._http.build_request(
            operation.method, url, content=content, headers=fields, timeout=times
        )
        try:
            response = await io.within(
                None if left == WITHOUT_LIMIT else left, self._http.send(request, stream=True)
            )
        except (httpx.HTTPError, OSError) as error:
            known = _transport_error(error, self.url)
            raise _classified(known, operation.is_repeatable) from error
        if response.status_code < 300:
            return response
        if response.status_code < 400:
            await response.aclose()
            raise redirect_error(url, response.headers.get("location"))
        body_read = await _read_error(response, deadline)
        refusal = error_from_answer(response.status_code, body_read, response.headers)
        raise _classified(refusal, operation.is_repeatable)


class AsyncByteStream(AsyncClosing):
    """Bytes of an answer as they come; a slow reader slows the sender down."""

    def __init__(self, response: httpx.Response) -> None:
        self.headers = response.headers
        self._response = response
        self._parts = response.aiter_bytes()

    def __aiter__(self) -> AsyncByteStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._parts.__anext__()
        except httpx.ReadTimeout as error:
            await self.aclose()
            server = _settings.origin(str(self._response.url))
            raise ConnectionBrokenError(f"nothing came from {server} for too long") from error
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            await self.aclose()
            raise _transport_error(error, str(self._response.url)) from error

    async def aread(self) -> bytes:
        """Reads what is left."""
        return b"".join([part async for part in self])

    async def aclose(self) -> None:
        await self._response.aclose()


def _tls_context(url: str, ca_file: str | None) -> ssl.SSLContext | None:
    if not url.startswith("https"):
        return None
    if ca_file is not None:
        return ssl.create_default_context(cafile=ca_file)
    return httpx.create_ssl_context()


def _query(value: Any) -> Any:
    """Value of a parameter as it stands in a URL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


async def _read(response: httpx.Response, deadline: float, is_repeatable: bool) -> bytes:
    """Reads the body. One that breaks off is a broken connection."""
    parts = []
    try:
        async for part in response.aiter_bytes():
            parts.append(part)
            if io.monotonic() > deadline:
                raise OperationTimeoutError("the answer takes longer than the call may")
    except (httpx.HTTPError, OSError) as error:
        if isinstance(error, WrennError):
            raise
        known = _transport_error(error, str(response.url))
        raise _classified(known, is_repeatable) from error
    return b"".join(parts)


async def _read_error(response: httpx.Response, deadline: float) -> bytes:
    body = b""
    try:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > MAX_ERROR_BODY or io.monotonic() > deadline:
                break
    except (httpx.HTTPError, OSError):
        pass
    finally:
        await response.aclose()
    return body[:MAX_ERROR_BODY]


def _classified(error: WrennError, is_repeatable: bool) -> Exception:
    """Returns the error, as one after which the request may be sent again where that is so."""
    is_refused = error.status == 429 or (error.status == 503 and not error._is_foreign)
    if isinstance(error, UnreachableError) or is_refused:
        return _Retry(error)
    return _Retry(error) if is_repeatable and _may_be_done(error) else error


def _may_be_done(error: WrennError) -> bool:
    """Returns true if it is not known whether the request was carried out."""
    is_of_proxy = error._is_foreign and error.status in (502, 503, 504)
    return isinstance(error, ConnectionBrokenError) or is_of_proxy


def _transport_error(error: Exception, url: str) -> WrennError:
    if isinstance(error, WrennError):
        return error
    server = _settings.origin(url)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return UnreachableError(
            f"no connection to {server} ({error}); is the server running? Start it with `wrenn up`"
        )
    if isinstance(error, httpx.TimeoutException):
        return OperationTimeoutError(f"{server} takes longer to answer than the call may")
    if isinstance(
        error, httpx.DecodingError | httpx.UnsupportedProtocol | httpx.LocalProtocolError
    ):
        return ProtocolError(f"the server's answer cannot be read: {error}")
    return ConnectionBrokenError(
        f"the connection to {server} broke off ({error}); what was asked may have been done"
    )
