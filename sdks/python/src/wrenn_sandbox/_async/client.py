"""The server as a whole: health, sizes, events and webhooks."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from .. import _io_async as io
from .._models import DiskUsage, Health, HostMetrics
from .._values import without_none
from .closing import AsyncClosing
from .connection import AsyncConnection
from .events import AsyncEvents
from .webhooks import AsyncWebhooks

if TYPE_CHECKING:
    from typing_extensions import Self


class AsyncClient(AsyncClosing):
    """A server with a key. Without arguments it finds both as the command `wrenn` does.

    `request_timeout` is the most that each call may take, in seconds; without it calls that save
    or boot a sandbox have five minutes, and all others one. `proxy` is the URL of a proxy
    (otherwise `HTTPS_PROXY` and its like hold), `ca_file` a file with certificates to trust.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        *,
        request_timeout: float | None = None,
        proxy: str | None = None,
        ca_file: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._connection = AsyncConnection(
            api_url=api_url,
            api_key=api_key,
            request_timeout=request_timeout,
            proxy=proxy,
            ca_file=ca_file,
            headers=headers,
        )
        self.events = AsyncEvents(self._connection)
        self.webhooks = AsyncWebhooks(self._connection)

    def with_options(self, *, request_timeout: float | None) -> Self:
        """Returns this client with another limit of time for its calls, over the same pool.

        Closing either of the two closes the connections of both.
        """
        other = copy.copy(self)
        other._connection = self._connection.with_request_timeout(request_timeout)
        other.events = AsyncEvents(other._connection)
        other.webhooks = AsyncWebhooks(other._connection)
        return other

    @property
    def url(self) -> str:
        """Address of the server."""
        return self._connection.url

    async def health(self) -> Health:
        """Asks whether the server is well."""
        return Health.from_json(await self._connection.json("health"))

    async def openapi(self) -> dict[str, Any]:
        """Gets the API document of the server."""
        document: dict[str, Any] = await self._connection.json("openapi_json")
        return document

    async def get_disk_usage(self) -> DiskUsage:
        """Gets what the team's sandboxes and snapshots take on disk."""
        return DiskUsage.from_json(await self._connection.json("get_disk_usage"))

    async def get_host_metrics(
        self, *, start: str | None = None, end: str | None = None, step: int | None = None
    ) -> list[HostMetrics]:
        """Gets what the hosts used; an empty list for teams other than the operator's."""
        query = without_none({"from": start, "to": end, "step": step})
        found = await self._connection.json("get_host_metrics", query=query)
        return [HostMetrics.from_json(entry) for entry in found]

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._connection.aclose()


class AsyncConnectionOptions(TypedDict, total=False):
    """Where a call goes: a client, or what one would be made of."""

    client: AsyncClient | None
    api_url: str | None
    api_key: str | None
    request_timeout: float | None
    proxy: str | None
    ca_file: str | None


def connection_of(options: AsyncConnectionOptions) -> AsyncConnection:
    """Returns the connection of a client, or the one that all calls with these options share."""
    given = without_none(options)
    client: AsyncClient | None = given.pop("client", None)
    if client is None:
        # The environment is part of it: it may change.
        environment = tuple(os.environ.get(name) for name in ENVIRONMENT)
        key = (tuple(sorted(given.items())), environment)
        client = io.default_clients.get(key, lambda: AsyncClient(**given))
    return client._connection


ENVIRONMENT = ("WRENN_API_URL", "WRENN_API_KEY", "WRENN_DIR", "HOME")
"""Variables on which server and key depend."""
