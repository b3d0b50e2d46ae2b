"""Sandboxes: their life, their state, their ports."""

from __future__ import annotations

import builtins
import contextlib
import json
import types
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _io_async as io
from .._models import (
    AutoCheckpoint,
    FileDiff,
    History,
    NetworkRules,
    OnTimeout,
    PortLink,
    SandboxDiskUsage,
    SandboxInfo,
    SandboxMetrics,
    SandboxStatus,
    SandboxUsage,
    SupervisedCommand,
    TemplateInfo,
    Undone,
)
from .._values import (
    FAST_TIMEOUT,
    SLOW_TIMEOUT,
    UNSET,
    DiffResult,
    Unset,
    parse_json,
    without_none,
)
from ..errors import (
    ConnectionBrokenError,
    InvalidStateError,
    NotFoundError,
    OperationTimeoutError,
)
from .checkpoints import AsyncCheckpoints
from .client import AsyncConnectionOptions, connection_of
from .commands import AsyncCommands, AsyncPty
from .connection import AsyncConnection
from .files import AsyncFiles
from .logs import AsyncLogs

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

PAGE = 1000
"""Entries of a page: the most that the API gives."""

MAX_WAIT = 300
"""Seconds of one request that waits: the most that the API allows."""


class AsyncSandbox:
    """A sandbox: a virtual machine with a kernel, a root disk and a network of its own.

    ```python
    async with await AsyncSandbox.create() as sandbox:
        result = await sandbox.commands.run("echo hi")
    ```

    The block deletes it at its end. A handle keeps no state of the sandbox: `get_info` asks.
    """

    def __init__(self, sandbox_id: str, connection: AsyncConnection) -> None:
        self.sandbox_id = sandbox_id
        """Id of the sandbox."""
        self._connection = connection
        self._path = {"id": sandbox_id}
        self.commands = AsyncCommands(connection, sandbox_id)
        """Commands in it."""
        self.pty = AsyncPty(self.commands)
        """Terminals in it."""
        self.files = AsyncFiles(connection, sandbox_id)
        """Its file system."""
        self.checkpoints = AsyncCheckpoints(connection, sandbox_id)
        """Its checkpoints."""

    def __repr__(self) -> str:
        return f"AsyncSandbox({self.sandbox_id!r})"

    @classmethod
    async def create(
        cls,
        template: str | None = None,
        *,
        name: str | None = None,
        timeout: int | None = None,
        envs: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_mb: int | None = None,
        on_timeout: OnTimeout | None = None,
        auto_resume: bool | None = None,
        ends_at: str | None = None,
        network: NetworkRules | None = None,
        allow_internet_access: bool | None = None,
        public_ports: bool | None = None,
        auto_checkpoint: AutoCheckpoint | None = None,
        start_command: SupervisedCommand | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[AsyncConnectionOptions],
    ) -> Self:
        """Creates a sandbox, and returns when it runs.

        `timeout` are the seconds without activity after which it is paused, or with
        `on_timeout="kill"` stopped. `metadata` is another name for `labels`, and
        `allow_internet_access` for the field of `network`. However often the request has to be
        sent, one sandbox is made.
        """
        body = _create_body(
            template=template,
            name=name,
            timeout_sec=timeout,
            envs=envs,
            labels=labels if labels is not None else metadata,
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_mb=disk_mb,
            on_timeout=on_timeout,
            auto_resume=auto_resume,
            ends_at=ends_at,
            network=_network_json(network, allow_internet_access),
            public_ports=public_ports,
            auto_checkpoint=auto_checkpoint and auto_checkpoint.to_json(),
            start_command=start_command and start_command.to_json(),
        )
        return await cls._create(body, idempotency_key, options)

    @classmethod
    async def get_or_create(
        cls,
        name: str,
        template: str | None = None,
        *,
        timeout: int | None = None,
        envs: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        vcpus: int | None = None,
        memory_mb: int | None = None,
        disk_mb: int | None = None,
        on_timeout: OnTimeout | None = None,
        auto_resume: bool | None = None,
        ends_at: str | None = None,
        network: NetworkRules | None = None,
        allow_internet_access: bool | None = None,
        public_ports: bool | None = None,
        auto_checkpoint: AutoCheckpoint | None = None,
        start_command: SupervisedCommand | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[AsyncConnectionOptions],
    ) -> Self:
        """Gets the living sandbox of that name, or creates it.

        One that has another template, size or environment is a `ConflictError`.
        """
        body = _create_body(
            template=template,
            name=name,
            if_exists="return",
            timeout_sec=timeout,
            envs=envs,
            labels=labels if labels is not None else metadata,
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_mb=disk_mb,
            on_timeout=on_timeout,
            auto_resume=auto_resume,
            ends_at=ends_at,
            network=_network_json(network, allow_internet_access),
            public_ports=public_ports,
            auto_checkpoint=auto_checkpoint and auto_checkpoint.to_json(),
            start_command=start_command and start_command.to_json(),
        )
        return await cls._create(body, idempotency_key, options)

    @classmethod
    async def _create(
        cls, body: dict[str, Any], key: str | None, options: AsyncConnectionOptions
    ) -> Self:
        connection = connection_of(options)
        created = await connection.json(
            "create_sandbox",
            json_body=body,
            headers={"idempotency-key": key or str(uuid.uuid4())},
            timeout=SLOW_TIMEOUT,
            is_repeatable=True,
        )
        return cls(created["id"], connection)

    @classmethod
    async def get(cls, id: str, **options: Unpack[AsyncConnectionOptions]) -> Self:
        """Gets a handle of a sandbox, by its id or name. One that is paused stays paused."""
        connection = connection_of(options)
        found = await connection.json("get_sandbox", path={"id": id})
        return cls(found["id"], connection)

    @classmethod
    async def connect(cls, id: str, **options: Unpack[AsyncConnectionOptions]) -> Self:
        """Gets a handle of a sandbox, by its id or name, and resumes it if it is paused."""
        connection = connection_of(options)
        found = await connection.json("get_sandbox", path={"id": id})
        sandbox = cls(found["id"], connection)
        if found["status"] == "paused":
            await sandbox.resume()
        return sandbox

    @classmethod
    def list(
        cls,
        *,
        labels: Mapping[str, str | None] | None = None,
        metadata: Mapping[str, str | None] | None = None,
        status: SandboxStatus | Sequence[SandboxStatus] | None = None,
        template: str | None = None,
        name_prefix: str | None = None,
        limit: int = PAGE,
        **options: Unpack[AsyncConnectionOptions],
    ) -> AsyncSandboxPaginator:
        """Lists sandboxes, newest first.

        The result can be iterated over, which turns the pages by itself. All labels have to be
        there; `None` stands for any value. One status of several is enough.
        """
        query = _filter(labels or metadata, status, template, name_prefix)
        return AsyncSandboxPaginator(connection_of(options), {**query, "limit": limit})

    @classmethod
    async def count(
        cls,
        *,
        labels: Mapping[str, str | None] | None = None,
        metadata: Mapping[str, str | None] | None = None,
        status: SandboxStatus | Sequence[SandboxStatus] | None = None,
        template: str | None = None,
        name_prefix: str | None = None,
        **options: Unpack[AsyncConnectionOptions],
    ) -> int:
        """Counts the sandboxes that a list with these filters would have."""
        query = _filter(labels or metadata, status, template, name_prefix)
        return int((await connection_of(options).json("count_sandboxes", query=query))["count"])

    @classmethod
    async def get_usage(
        cls, ids: Iterable[str] | None = None, **options: Unpack[AsyncConnectionOptions]
    ) -> builtins.list[SandboxUsage]:
        """Gets what sandboxes use now: of these ids, or of all that run or are paused."""
        query: dict[str, Any] = {"limit": PAGE} if ids is None else {"ids": ",".join(ids)}
        usage: builtins.list[SandboxUsage] = []
        while True:
            answer = await connection_of(options).call("get_usage", query=query)
            usage += [SandboxUsage.from_json(entry) for entry in parse_json(answer.content)]
            query["cursor"] = answer.headers.get("x-next-cursor", "")
            if not query["cursor"]:
                return usage

    @classmethod
    async def list_snapshots(
        cls, **options: Unpack[AsyncConnectionOptions]
    ) -> builtins.list[TemplateInfo]:
        """Lists the templates that were made of sandboxes, by name."""
        found = await connection_of(options).json("list_snapshots")
        return [TemplateInfo.from_json(entry) for entry in found]

    @classmethod
    async def get_snapshot(
        cls, name: str, **options: Unpack[AsyncConnectionOptions]
    ) -> TemplateInfo:
        """Gets such a template."""
        found = await connection_of(options).json("get_snapshot", path={"name": name})
        return TemplateInfo.from_json(found)

    @classmethod
    async def delete_snapshot(cls, name: str, **options: Unpack[AsyncConnectionOptions]) -> bool:
        """Deletes such a template; false if it is not there."""
        return await connection_of(options).delete("delete_snapshot", {"name": name})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.kill()

    def with_options(self, *, request_timeout: float | None) -> Self:
        """Returns a handle of the same sandbox whose calls have another limit of time, in seconds.

        ```python
        sandbox.with_options(request_timeout=5).get_info()
        ```
        """
        connection = self._connection.with_request_timeout(request_timeout)
        return type(self)(self.sandbox_id, connection)

    async def _post(self, name: str, **request: Any) -> SandboxInfo:
        changed = await self._connection.json(
            name, path=self._path, timeout=SLOW_TIMEOUT, **request
        )
        return SandboxInfo.from_json(changed)

    async def get_info(self) -> SandboxInfo:
        """Gets what is known of the sandbox."""
        found = await self._connection.json("get_sandbox", path=self._path)
        return SandboxInfo.from_json(found)

    async def is_running(self) -> bool:
        """Returns true if the sandbox runs; false if it does not, or is not there."""
        try:
            return (await self.get_info()).status == "running"
        except NotFoundError:
            return False

    async def update(
        self,
        *,
        name: str | Unset | None = UNSET,
        labels: Mapping[str, str | None] | None = None,
        timeout: int | None = None,
        on_timeout: OnTimeout | None = None,
        auto_resume: bool | None = None,
        ends_at: str | Unset | None = UNSET,
    ) -> SandboxInfo:
        """Changes the sandbox; what is left out stays.

        Labels that are `None` are removed, and those that are not named stay. `None` takes the
        name away, or the end.
        """
        body = without_none(
            {
                "labels": None if labels is None else dict(labels),
                "timeout_sec": timeout,
                "on_timeout": on_timeout,
                "auto_resume": auto_resume,
            }
        )
        for field, value in (("name", name), ("ends_at", ends_at)):
            if not isinstance(value, Unset):
                body[field] = value
        changed = await self._connection.json("update_sandbox", path=self._path, json_body=body)
        return SandboxInfo.from_json(changed)

    async def set_timeout(self, timeout: int) -> None:
        """Sets the seconds without activity until it is paused, or stopped."""
        await self.update(timeout=timeout)

    async def wait(
        self, status: SandboxStatus | Sequence[SandboxStatus], *, timeout: float | None = None
    ) -> SandboxInfo:
        """Waits until the sandbox has the status.

        It ends with an `OperationTimeoutError` after `timeout`, without one after the
        `request_timeout` of the client; without both it never does.
        One that will never have it is an `InvalidStateError`.
        """
        statuses = [status] if isinstance(status, str) else [*status]
        return SandboxInfo.from_json(await self._wait({"status": statuses}, timeout))

    async def wait_deleted(self, *, timeout: float | None = None) -> None:
        """Waits until the sandbox is deleted."""
        with contextlib.suppress(NotFoundError):
            await self._wait({"deleted": True}, timeout)

    async def _wait(self, query: dict[str, Any], timeout: float | None) -> Any:
        limit = self._connection.request_timeout if timeout is None else timeout
        deadline = None if limit is None else io.monotonic() + limit
        while True:
            left = MAX_WAIT if deadline is None else max(0.0, deadline - io.monotonic())
            seconds = max(1, round(min(MAX_WAIT, left)))
            try:
                answer = await self._connection.call(
                    "wait_for_sandbox",
                    path=self._path,
                    query={**query, "timeout_sec": seconds},
                    timeout=seconds + 30.0,
                )
                return parse_json(answer.content) if answer.content else None
            except OperationTimeoutError:
                if deadline is not None and io.monotonic() >= deadline - 0.5:
                    raise

    async def keep_alive(self) -> None:
        """Counts as use: the time until the sandbox is idle begins again."""
        await self._connection.call("keep_sandbox_alive", path=self._path)

    async def ping(self) -> None:
        """Asks the guest whether it answers; an error if it does not."""
        await self._connection.call("ping_sandbox", path=self._path)

    async def kill(self) -> bool:
        """Deletes the sandbox with everything in it; false if it is not there."""
        return await self._connection.delete("delete_sandbox", self._path, timeout=SLOW_TIMEOUT)

    async def pause(self) -> SandboxInfo:
        """Saves memory and disk, and returns when both are safe. Nothing runs then."""
        return await self._post("pause_sandbox")

    async def resume(self) -> SandboxInfo:
        """Goes on where the sandbox was paused."""
        return await self._post("resume_sandbox")

    async def fork(self, count: int = 1) -> builtins.list[Self]:
        """Makes children that go on from the present state: all of them, or none."""
        children = await self._connection.json(
            "fork_sandbox",
            path=self._path,
            json_body={"count": count},
            headers={"idempotency-key": str(uuid.uuid4())},
            timeout=SLOW_TIMEOUT,
            is_repeatable=True,
        )
        return [type(self)(child["id"], self._connection) for child in children]

    async def rollback(self, name: str) -> SandboxInfo:
        """Goes back to a checkpoint; what came after is lost, in memory and on disk."""
        back = await self._connection.json(
            "rollback_sandbox", path={**self._path, "name": name}, timeout=SLOW_TIMEOUT
        )
        return SandboxInfo.from_json(back)

    async def undo(self, steps: int | None = None, *, checkpoint: str | None = None) -> Undone:
        """Goes back so many automatic checkpoints, or to any checkpoint by its name.

        The state before is saved: a `rollback` to `saved_as` takes the undo back.
        """
        body = without_none({"steps": steps, "checkpoint": checkpoint})
        undone = await self._connection.json(
            "undo_sandbox", path=self._path, json_body=body, timeout=SLOW_TIMEOUT
        )
        return Undone.from_json(undone)

    async def get_history(self) -> History:
        """Says where an undo goes."""
        return History.from_json(await self._connection.json("get_history", path=self._path))

    async def diff(
        self,
        from_: str | None = None,
        to: str | None = None,
        *,
        path: str | None = None,
        patches: bool | None = None,
        limit: int | None = None,
        timeout: int | None = None,
    ) -> DiffResult:
        """Compares the files at two checkpoints, or at one and now.

        Default: the newest checkpoint and the present state, and all of the disk. `patches` adds
        unified diffs of texts, and hashes of other files. A comparison ends at its `limit` of
        changes (10000) and its `timeout` (60 s): `incomplete` of the result has the reason.
        """
        query = {"from": from_, "to": to, "path": path, "patches": patches, "limit": limit}
        answer = await self._connection.call(
            "diff_sandbox",
            path=self._path,
            query=without_none({**query, "timeout_sec": timeout}),
            timeout=FAST_TIMEOUT + (timeout or 60),
        )
        return _diff_result(answer.content)

    async def create_snapshot(
        self,
        name: str | None = None,
        *,
        memory: bool | None = None,
        overwrite: bool | None = None,
    ) -> TemplateInfo:
        """Makes a template of the sandbox, with its memory unless that is false."""
        body = without_none(
            {"sandbox_id": self.sandbox_id, "name": name, "memory": memory, "overwrite": overwrite}
        )
        made = await self._connection.json("create_snapshot", json_body=body, timeout=SLOW_TIMEOUT)
        return TemplateInfo.from_json(made)

    async def update_network(
        self,
        rules: NetworkRules | None = None,
        *,
        allow_internet: bool | None = None,
        allow_out: Sequence[str] | None = None,
        deny_out: Sequence[str] | None = None,
        egress_mbps: int | None = None,
        ingress_mbps: int | None = None,
    ) -> SandboxInfo:
        """Replaces the rules of the network: what is left out is open."""
        body = {} if rules is None else rules.to_json()
        given = {
            "allow_internet": allow_internet,
            "allow_out": None if allow_out is None else [*allow_out],
            "deny_out": None if deny_out is None else [*deny_out],
            "egress_mbps": egress_mbps,
            "ingress_mbps": ingress_mbps,
        }
        return await self._post("set_network", json_body={**body, **without_none(given)})

    async def get_metrics(
        self, *, start: str | None = None, end: str | None = None, step: int | None = None
    ) -> SandboxMetrics:
        """Gets what the sandbox used: the last ten minutes, unless `start` and `end` say else."""
        query = without_none({"from": start, "to": end, "step": step})
        found = await self._connection.json("get_sandbox_metrics", path=self._path, query=query)
        return SandboxMetrics.from_json(found)

    async def get_disk_usage(self) -> SandboxDiskUsage:
        """Gets what the sandbox takes on disk."""
        found = await self._connection.json("get_sandbox_disk_usage", path=self._path)
        return SandboxDiskUsage.from_json(found)

    async def get_logs(self, *, follow: bool = False) -> AsyncLogs:
        """Reads the log: console and host agent. With `follow` it goes on with what comes."""
        stream = await self._connection.stream(
            "logs", path=self._path, query={"follow": follow}, is_endless=follow
        )
        return AsyncLogs(stream)

    async def create_port_link(self, port: int, *, expires_in: int | None = None) -> PortLink:
        """Makes a signed URL of a port, for an hour or `expires_in` seconds."""
        body = without_none({"port": port, "expires_in_sec": expires_in})
        link = await self._connection.json("create_port_link", path=self._path, json_body=body)
        return PortLink.from_json(link)

    async def get_url(self, port: int, *, expires_in: int | None = None) -> str:
        """Returns a signed URL of a port, for browsers and other clients without a key."""
        return (await self.create_port_link(port, expires_in=expires_in)).url

    async def connect_port(self, port: int) -> io.PortStream:
        """Opens a TCP connection to a port, also of the guest's loopback.

        `AsyncSandbox` returns reader and writer as `asyncio.open_connection` does, the blocking
        one a `socket.socket`. A connection that breaks is reset, not ended.
        """
        web_socket = await self._connection.web_socket(
            "tunnel", path=self._path, query={"port": port}
        )
        return await io.port_stream(web_socket)


class AsyncTemplate:
    """What sandboxes are created from."""

    @classmethod
    async def list(cls, **options: Unpack[AsyncConnectionOptions]) -> builtins.list[TemplateInfo]:
        """Lists base images and snapshots, by name."""
        found = await connection_of(options).json("list_templates")
        return [TemplateInfo.from_json(entry) for entry in found]


class AsyncSandboxPaginator:
    """A list of sandboxes, page after page."""

    def __init__(self, connection: AsyncConnection, query: dict[str, Any]) -> None:
        self._connection = connection
        self._query = query
        self.has_next = True
        """True if there may be another page."""

    async def next_items(self) -> list[SandboxInfo]:
        """Gets the next page."""
        if not self.has_next:
            raise InvalidStateError("there is no page behind the last one")
        answer = await self._connection.call("list_sandboxes", query=self._query)
        self._query["cursor"] = answer.headers.get("x-next-cursor", "")
        self.has_next = bool(self._query["cursor"])
        return [SandboxInfo.from_json(entry) for entry in parse_json(answer.content)]

    async def __aiter__(self) -> AsyncIterator[SandboxInfo]:
        while self.has_next:
            for entry in await self.next_items():
                yield entry


def _create_body(**fields: Any) -> dict[str, Any]:
    body = without_none(fields)
    for name in ("envs", "labels"):
        if name in body:
            body[name] = dict(body[name])
    # The server refuses what is no JSON; here the error names the wrong type.
    json.dumps(body)
    return body


def _diff_result(body: bytes) -> DiffResult:
    changes = []
    start: dict[str, Any] = {}
    for line in body.split(b"\n"):
        if not line.strip():
            continue
        message = parse_json(line)
        if message["type"] == "start":
            start = message
        elif message["type"] == "change":
            changes.append(FileDiff.from_json(message))
        elif message["type"] == "end":
            return DiffResult(
                changes=changes,
                from_=start.get("from", ""),
                to=start.get("to"),
                from_unflushed=start.get("from_unflushed", False),
                to_unflushed=start.get("to_unflushed", False),
                compared=message["compared"],
                unreadable=message["unreadable"],
                incomplete=message.get("incomplete"),
            )
    raise ConnectionBrokenError("the comparison broke off: there may be more changes")


def _network_json(
    network: NetworkRules | None, allow_internet_access: bool | None
) -> dict[str, Any] | None:
    if allow_internet_access is None:
        return None if network is None else network.to_json()
    rules = {} if network is None else network.to_json()
    return {**rules, "allow_internet": allow_internet_access}


def _filter(
    labels: Mapping[str, str | None] | None,
    status: str | Sequence[str] | None,
    template: str | None,
    name_prefix: str | None,
) -> dict[str, Any]:
    found = [key if value is None else f"{key}={value}" for key, value in (labels or {}).items()]
    statuses = [status] if isinstance(status, str) else [*(status or [])]
    query = {"template": template, "name_prefix": name_prefix}
    return {**without_none(query), "label": found, "status": statuses}
