"""The environment: a sandbox for each sample of an evaluation.

A sandbox is made by `sample_init` and deleted by `sample_cleanup`; that of a sample that was
interrupted by `task_cleanup`. All carry the label `inspect-task`, by which
`inspect sandbox cleanup wrenn` finds what a process that died has left. Nothing is kept on this
side.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shlex
from typing import Any, Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxConnection,
    SandboxEnvironment,
    SandboxEnvironmentConfigType,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    sandboxenv,
)
from pydantic import BaseModel, ConfigDict
from wrenn_sandbox import AsyncCommandHandle, AsyncSandbox, NetworkRules
from wrenn_sandbox.errors import (
    CommandNotStartedError,
    ConflictError,
    ForbiddenError,
    HostUnavailableError,
    InvalidRequestError,
    InvalidStateError,
    NotFoundError,
    UnreachableError,
    WrennError,
)

logger = logging.getLogger(__name__)

LABEL = "inspect-task"
"""Label of the sandboxes of evaluations; its value is the name of the task."""

NOT_EXECUTABLE = 126
"""Exit code of a program that may not be run."""


class WrennConfig(BaseModel):
    """What a sandbox is made of; what is left out is up to the server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str | None = None
    """Image or snapshot that it is created from."""
    vcpus: int | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    envs: dict[str, str] | None = None
    """Environment variables of all its commands."""
    allow_internet: bool | None = None
    """Whether it reaches the internet."""
    timeout: int | None = None
    """Seconds without use after which it is paused; it goes on at its next use."""


@sandboxenv(name="wrenn")
class WrennSandboxEnvironment(SandboxEnvironment):
    """A sandbox of a sample."""

    def __init__(self, sandbox: AsyncSandbox, working_dir: str) -> None:
        super().__init__()
        self.sandbox = sandbox
        """The sandbox: for checkpoints, forks and all else that Inspect does not know."""
        self._working_dir = working_dir

    @classmethod
    async def sample_init(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        metadata: dict[str, str],
    ) -> dict[str, SandboxEnvironment]:
        """Creates the sandbox of a sample; the home of its default user is the working directory.

        A configuration that is text is the name of a template.
        """
        sandbox = await _create(task_name, _read_config(config))
        try:
            home = await sandbox.commands.run(["pwd"])
        except BaseException:
            await sandbox.kill()
            raise
        environment = cls(sandbox, home.stdout.strip())
        _interrupted[sandbox.sandbox_id] = (task_name, sandbox)
        return {"default": environment}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        # Inspect cancels what an interrupted sample does here; the end of the task deletes it.
        if interrupted:
            return
        for environment in environments.values():
            await _delete(environment.as_type(cls).sandbox)

    @classmethod
    async def task_cleanup(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, cleanup: bool
    ) -> None:
        """Deletes sandboxes of samples that were interrupted, or names them."""
        for task, sandbox in list(_interrupted.values()):
            if task != task_name:
                continue
            if cleanup:
                await _delete(sandbox)
            else:
                print(f"{task_name}: the sandbox {sandbox.sandbox_id} is kept")

    @classmethod
    async def cli_cleanup(cls, id: str | None) -> None:
        """Deletes a sandbox, or all that evaluations have left."""
        if id is not None:
            sandbox = await AsyncSandbox.get(id)
            found = f"deleted {id}" if await sandbox.kill() else f"there is no sandbox {id}"
            print(found)
            return
        async for info in AsyncSandbox.list(labels={LABEL: None}):
            await (await AsyncSandbox.get(info.id)).kill()
            print(f"deleted {info.id}")

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        return WrennConfig(**config)

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Runs a command; it ends with a cancelled task.

        It is never run a second time, whatever `timeout_retry` says: what it did the first time
        is not known.
        """
        try:
            handle = await self.sandbox.commands.stream(
                cmd,
                envs=env,
                cwd=self._resolve(cwd or "."),
                user=user,
                timeout=timeout,
                stdin=input is not None,
            )
            async with handle:
                return await _collect(handle, input)
        except CommandNotStartedError as error:
            if error.exit_code == NOT_EXECUTABLE:
                raise PermissionError(errno.EACCES, error.message, cmd[0]) from error
            return ExecResult(False, error.exit_code, "", error.message)
        except (HostUnavailableError, UnreachableError, InvalidStateError) as error:
            raise SandboxUnavailableError(error.message) from error
        except NotFoundError as error:
            if await self.sandbox.is_running():
                return ExecResult(False, 1, "", error.message)
            raise SandboxUnavailableError(error.message) from error
        except InvalidRequestError as error:
            # A user or a directory that is not there.
            return ExecResult(False, 1, "", error.message)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        path = self._resolve(file)
        try:
            await self.sandbox.files.write(path, contents)
        except WrennError as error:
            raise await self._file_error(path, error) from error

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        path = self._resolve(file)
        content = bytearray()
        limit = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        try:
            stream = await self.sandbox.files.read(path, "stream")
            async with stream:
                async for part in stream:
                    content += part
                    if len(content) > limit:
                        limit_str = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR
                        raise OutputLimitExceededError(limit_str, None)
        except WrennError as error:
            raise await self._file_error(path, error) from error
        return content.decode() if text else bytes(content)

    async def connection(self, *, user: str | None = None) -> SandboxConnection:
        """Says how people get a terminal in the sandbox."""
        if not await self.sandbox.is_running():
            raise ConnectionError(f"the sandbox {self.sandbox.sandbox_id} does not run")
        words = ["wrenn", "shell", *(["--user", user] if user else []), self.sandbox.sandbox_id]
        return SandboxConnection(type="wrenn", command=shlex.join(words))

    def _resolve(self, path: str) -> str:
        return os.path.normpath(os.path.join(self._working_dir, path))

    async def _file_error(self, path: str, error: WrennError) -> Exception:
        """Returns the error of the operating system that Inspect expects, if there is one."""
        if isinstance(error, ForbiddenError):
            return PermissionError(errno.EACCES, error.message, path)
        if isinstance(error, NotFoundError):
            return FileNotFoundError(errno.ENOENT, error.message, path)
        if isinstance(error, InvalidRequestError | ConflictError) and await self._is_directory(
            path
        ):
            return IsADirectoryError(errno.EISDIR, f"Is a directory: {error.message}", path)
        return error

    async def _is_directory(self, path: str) -> bool:
        try:
            return (await self.sandbox.files.get_info(path)).kind == "directory"
        except WrennError:
            return False


_interrupted: dict[str, tuple[str, AsyncSandbox]] = {}
"""Sandboxes of this process that are not deleted yet, with their tasks."""


def _read_config(config: SandboxEnvironmentConfigType | None) -> WrennConfig:
    if config is None:
        return WrennConfig()
    if isinstance(config, str):
        return WrennConfig(template=config)
    if isinstance(config, WrennConfig):
        return config
    raise TypeError(
        f"the configuration of a sandbox is a {type(config).__name__}; it has to be the name of "
        "a template or a WrennConfig"
    )


async def _create(task_name: str, config: WrennConfig) -> AsyncSandbox:
    network = None
    if config.allow_internet is not None:
        network = NetworkRules(allow_internet=config.allow_internet)
    return await AsyncSandbox.create(
        config.template,
        vcpus=config.vcpus,
        memory_mb=config.memory_mb,
        disk_mb=config.disk_mb,
        envs=config.envs,
        network=network,
        timeout=config.timeout,
        auto_resume=True,
        labels={LABEL: task_name[:63]},
    )


async def _delete(sandbox: AsyncSandbox) -> None:
    _interrupted.pop(sandbox.sandbox_id, None)
    try:
        await sandbox.kill()
    except WrennError as error:
        logger.warning("the sandbox %s was not deleted: %s", sandbox.sandbox_id, error)


async def _collect(handle: AsyncCommandHandle, input: str | bytes | None) -> ExecResult[str]:
    """Feeds a command and returns what it wrote; beyond Inspect's limit it is ended."""
    streams = {"stdout": bytearray(), "stderr": bytearray()}
    limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
    # Beside the reading: a command may write while it does not read.
    feeder = asyncio.ensure_future(_feed(handle, input))
    try:
        async for chunk in handle.chunks():
            kept = streams[chunk.stream]
            kept += chunk.data
            if len(kept) > limit:
                text = kept[:limit].decode(errors="replace")
                limit_str = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR
                raise OutputLimitExceededError(limit_str, text)
    finally:
        await handle.disconnect()
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)
    code = 1 if handle.exit_code is None else handle.exit_code
    out, err = (streams[name].decode(errors="replace") for name in ("stdout", "stderr"))
    return ExecResult(code == 0, code, out, err)


async def _feed(handle: AsyncCommandHandle, input: str | bytes | None) -> None:
    """Writes all input. A command that ends before it has read it is no error."""
    if input is None:
        return
    with contextlib.suppress(WrennError):
        await handle.send_stdin(input)
        await handle.close_stdin()
