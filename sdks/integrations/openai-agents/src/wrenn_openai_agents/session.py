"""The session: files, commands and terminals of a sandbox as the Agents SDK asks for them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from agents.sandbox.entries import Mount
from agents.sandbox.errors import (
    ExecTimeoutError,
    ExposedPortUnavailableError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
    WorkspaceStartError,
)
from agents.sandbox.session import SandboxSessionState
from agents.sandbox.session.base_sandbox_session import BaseSandboxSession
from agents.sandbox.session.bounded_read import collect_bounded
from agents.sandbox.session.pty_types import PtyExecUpdate
from agents.sandbox.session.runtime_helpers import (
    RESOLVE_WORKSPACE_PATH_HELPER,
    RuntimeHelperScript,
)
from agents.sandbox.types import ExecResult, ExposedPortEndpoint, User
from agents.sandbox.util.tar_utils import UnsafeTarMemberError, validate_tar_bytes
from pydantic import Field
from wrenn_sandbox import AsyncSandbox, WrennError
from wrenn_sandbox.errors import (
    CommandNotStartedError,
    NotFoundError,
    OperationTimeoutError,
)

from .convert import (
    read_error,
    transport_error,
    user_name,
    whole_data,
    whole_seconds,
    write_error,
)
from .terminals import Terminals

_MAKE_ROOT = '[ -d "$1" ] || { mkdir -p -- "$1" && chown "$2:" "$1"; }'


class WrennSandboxSessionState(SandboxSessionState):
    """What is needed to find a session again."""

    type: Literal["wrenn"] = "wrenn"
    sandbox_id: str
    options: dict[str, Any] = Field(default_factory=dict)
    """Options with which the sandbox was created."""
    pause_on_exit: bool = False


class WrennSandboxSession(BaseSandboxSession):
    """A workspace in a sandbox."""

    state: WrennSandboxSessionState

    def __init__(self, state: WrennSandboxSessionState, sandbox: AsyncSandbox) -> None:
        self.state = state
        self.sandbox = sandbox
        """The sandbox: for checkpoints, forks and all else that the SDK does not know."""
        self._terminals = Terminals(self)

    async def running(self) -> bool:
        return await self.sandbox.is_running()

    async def _prepare_backend_workspace(self) -> None:
        """Makes the root of the workspace; mostly only root may do that."""
        root = self._workspace_root_path()
        try:
            user = await self.sandbox.commands.run(["id", "-un"])
            words = ["sh", "-c", _MAKE_ROOT, "sh", root.as_posix(), user.stdout.strip()]
            await self.sandbox.commands.run(words, user="root", cwd="/")
        except WrennError as error:
            raise WorkspaceStartError(path=root, cause=error) from error
        self.state.workspace_root_ready = True

    async def _shutdown_backend(self) -> None:
        if self.state.pause_on_exit:
            await self.sandbox.pause()
        else:
            await self.sandbox.kill()

    # Commands

    async def exec(
        self,
        *command: str | Path,
        timeout: float | None = None,
        shell: bool | list[str] = True,
        user: str | User | None = None,
    ) -> ExecResult:
        words = self._prepare_exec_command(*command, shell=shell, user=None)
        return await self._run(words, timeout, user)

    async def _exec_internal(
        self, *command: str | Path, timeout: float | None = None
    ) -> ExecResult:
        return await self._run([str(word) for word in command], timeout, None)

    async def _run(
        self, words: list[str], timeout: float | None, user: str | User | None
    ) -> ExecResult:
        try:
            result = await self.sandbox.commands.run(
                words, timeout=whole_seconds(timeout), check=False, **await self._surroundings(user)
            )
        except CommandNotStartedError as error:
            return ExecResult(stdout=b"", stderr=error.message.encode(), exit_code=error.exit_code)
        except OperationTimeoutError as error:
            raise ExecTimeoutError(command=words, timeout_s=timeout, cause=error) from error
        except WrennError as error:
            raise transport_error(words, error) from error
        return ExecResult(
            stdout=result.stdout_bytes, stderr=result.stderr_bytes, exit_code=result.exit_code
        )

    async def _surroundings(self, user: str | User | None) -> dict[str, Any]:
        """Returns who runs a command, where, and with which variables."""
        root = self._workspace_root_path().as_posix()
        return {
            "cwd": root if self.state.workspace_root_ready else "/",
            "envs": await self.state.manifest.environment.resolve(),
            "user": user_name(user),
        }

    # Terminals and commands that go on

    def supports_pty(self) -> bool:
        return True

    async def pty_exec_start(
        self,
        *command: str | Path,
        timeout: float | None = None,
        shell: bool | list[str] = True,
        user: str | User | None = None,
        tty: bool = False,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        words = self._prepare_exec_command(*command, shell=shell, user=None)
        surroundings = await self._surroundings(user)
        if timeout is not None:
            surroundings["timeout"] = whole_seconds(timeout)
        return await self._terminals.start(
            words, surroundings, tty, yield_time_s, max_output_tokens
        )

    async def pty_write_stdin(
        self,
        *,
        session_id: int,
        chars: str,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        return await self._terminals.write(session_id, chars, yield_time_s, max_output_tokens)

    async def pty_terminate_all(self) -> None:
        await self._terminals.end_all()

    # Files

    async def _validate_path_access(self, path: Path | str, *, for_write: bool = False) -> Path:
        return await self._validate_remote_path_access(path, for_write=for_write)

    def _runtime_helpers(self) -> tuple[RuntimeHelperScript, ...]:
        return (RESOLVE_WORKSPACE_PATH_HELPER,)

    def _current_runtime_helper_cache_key(self) -> object | None:
        return self.state.sandbox_id

    async def read(self, path: Path, *, user: str | User | None = None) -> io.IOBase:
        found = await self._validate_path_access(path)
        # On disk: files may be larger than the memory of this process.
        file = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            await self.sandbox.files.download(found.as_posix(), file, user=user_name(user))
        except BaseException as error:
            file.close()
            if isinstance(error, NotFoundError):
                raise WorkspaceReadNotFoundError(path=path, cause=error) from error
            if isinstance(error, WrennError):
                raise read_error(path, error) from error
            raise
        file.seek(0)
        return cast(io.IOBase, file)

    async def _read_bounded(self, path: Path, *, max_bytes: int) -> bytes:
        found = await self._validate_path_access(path)
        try:
            stream = await self.sandbox.files.read(found.as_posix(), "stream")
            async with stream:
                return await collect_bounded(stream, max_bytes)
        except NotFoundError as error:
            raise WorkspaceReadNotFoundError(path=path, cause=error) from error
        except WrennError as error:
            raise read_error(path, error) from error

    async def write(self, path: Path, data: io.IOBase, *, user: str | User | None = None) -> None:
        target = await self._validate_path_access(path, for_write=True)
        try:
            await self.sandbox.files.write(
                target.as_posix(), whole_data(path, data), user=user_name(user)
            )
        except WrennError as error:
            raise write_error(path, error) from error

    # The workspace as an archive

    async def persist_workspace(self) -> io.IOBase:
        root = self._workspace_root_path()
        excludes = [
            f"--exclude=./{path.as_posix()}"
            for path in sorted(self._persist_workspace_skip_relpaths())
        ]
        words = ["tar", *excludes, "-C", root.as_posix(), "-cf", "-", "."]
        async with self._without_mounts(root):
            return await self._read_output(words, root)

    async def _read_output(self, words: list[str], root: Path) -> io.IOBase:
        """Runs a command and returns what it writes, as a file on disk."""
        file = tempfile.TemporaryFile()  # noqa: SIM115
        errors = bytearray()
        try:
            handle = await self.sandbox.commands.stream(words, cwd="/")
            async with handle:
                async for chunk in handle.chunks():
                    if chunk.stream == "stdout":
                        file.write(chunk.data)
                    else:
                        errors += chunk.data
            if handle.exit_code != 0:
                context = {"exit_code": handle.exit_code, "stderr": errors.decode(errors="replace")}
                raise WorkspaceArchiveReadError(path=root, context=context, retryable=False)
        except BaseException as error:
            file.close()
            if isinstance(error, WrennError):
                raise read_error(root, error) from error
            raise
        file.seek(0)
        return cast(io.IOBase, file)

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        root = self._workspace_root_path()
        raw = whole_data(root, data)
        try:
            validate_tar_bytes(raw, allow_external_symlink_targets=False)
            await self.sandbox.files.write_archive(root.as_posix(), raw)
        except UnsafeTarMemberError as error:
            context = {"reason": "unsafe_or_invalid_tar", "member": error.member}
            raise WorkspaceArchiveWriteError(path=root, context=context, cause=error) from error
        except WrennError as error:
            raise write_error(root, error) from error

    @asynccontextmanager
    async def _without_mounts(self, root: Path) -> AsyncIterator[None]:
        """Takes mounts away that an archive of the workspace should not have."""
        taken: list[tuple[Mount, Path]] = []
        try:
            for mount, path in self.state.manifest.ephemeral_mount_targets():
                await mount.mount_strategy.teardown_for_snapshot(mount, self, path)
                taken.append((mount, path))
            yield
        finally:
            for mount, path in reversed(taken):
                await mount.mount_strategy.restore_after_snapshot(mount, self, path)

    # Ports

    async def _resolve_exposed_port(self, port: int) -> ExposedPortEndpoint:
        try:
            link = await self.sandbox.create_port_link(port)
        except WrennError as error:
            raise ExposedPortUnavailableError(
                port=port,
                exposed_ports=self.state.exposed_ports,
                reason="backend_unavailable",
                context={"backend": "wrenn", "detail": error.message},
                cause=error,
            ) from error
        url = urlsplit(link.url)
        is_tls = url.scheme == "https"
        return ExposedPortEndpoint(
            host=url.hostname or "",
            port=url.port or (443 if is_tls else 80),
            tls=is_tls,
            query=url.query,
        )
