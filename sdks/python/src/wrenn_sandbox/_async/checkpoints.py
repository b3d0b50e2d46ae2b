"""Checkpoints of a sandbox."""

from __future__ import annotations

import builtins

from .._models import AutoCheckpoint, Checkpoint
from .._values import SLOW_TIMEOUT, without_none
from .connection import AsyncConnection


class AsyncCheckpoints:
    """Saved states of a sandbox, which it can be rolled back to. They go with it."""

    def __init__(self, connection: AsyncConnection, sandbox_id: str) -> None:
        self._connection = connection
        self._path = {"id": sandbox_id}

    async def create(self, name: str | None = None) -> Checkpoint:
        """Saves the present state; the sandbox goes on."""
        made = await self._connection.json(
            "create_checkpoint",
            path=self._path,
            json_body=without_none({"name": name}),
            timeout=SLOW_TIMEOUT,
        )
        return Checkpoint.from_json(made)

    async def list(self) -> builtins.list[Checkpoint]:
        """Lists the checkpoints, oldest first."""
        found = await self._connection.json("list_checkpoints", path=self._path)
        return [Checkpoint.from_json(entry) for entry in found]

    async def delete(self, name: str) -> bool:
        """Deletes a checkpoint; false if it is not there."""
        return await self._connection.delete("delete_checkpoint", {**self._path, "name": name})

    async def set_auto(
        self,
        *,
        before_each_command: bool | None = None,
        every_sec: int | None = None,
        keep: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """Has the host make checkpoints by itself, for `Sandbox.undo`."""
        policy = AutoCheckpoint(
            before_each_command=before_each_command,
            every_sec=every_sec,
            keep=keep,
            max_bytes=max_bytes,
        )
        await self._connection.call(
            "set_auto_checkpoint", path=self._path, json_body=policy.to_json()
        )

    async def remove_auto(self) -> None:
        """Has no more of them made; those that there are stay."""
        await self._connection.call("remove_auto_checkpoint", path=self._path)
