"""The backend: commands and files of a sandbox as Deep Agents asks for them.

It has no state of its own. The sandbox belongs to the caller, who also ends it; a command ends
with its connection, so that neither a timeout nor a cancelled agent leaves one running.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from deepagents.backends.protocol import (
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
)
from deepagents.backends.sandbox import BaseSandbox
from wrenn_sandbox import CommandHandle, OperationTimeoutError, Sandbox, WrennError
from wrenn_sandbox.errors import ForbiddenError, InvalidRequestError, NotFoundError

DEFAULT_TIMEOUT = 30 * 60
"""Seconds that a command may take unless told otherwise: what other backends allow."""

MAX_OUTPUT = 8 * 1024 * 1024
"""Bytes of output that are kept; the command goes on behind them, and its output is dropped."""

ARTIFACT_DIRECTORIES = ("/large_tool_results", "/conversation_history", "/blobs")
"""Where Deep Agents puts what is too long for a model; in `/`, where only root may make them."""

TIMEOUT_EXIT_CODE = 124
"""Exit code of a command that took too long: that of timeout(1)."""


class WrennBackend(BaseSandbox):
    """Runs an agent's commands in a sandbox and keeps its files there.

    All tools of Deep Agents (`ls`, `read_file`, `write_file`, `edit_file`, `grep`, `glob`,
    `execute`) work in it. The sandbox needs `python3`, which they use.
    """

    enable_capture_offload = True

    def __init__(
        self, sandbox: Sandbox, *, timeout: int = DEFAULT_TIMEOUT, user: str | None = None
    ) -> None:
        """Creates a backend over a sandbox that runs.

        `timeout` are the seconds that a command may take where the agent does not say; `user` is
        who acts, by default that of the template.
        """
        self.sandbox = sandbox
        """The sandbox: for checkpoints, forks and all else that Deep Agents does not know."""
        self._timeout = timeout
        self._user = user
        make_directories = ["install", "-d", "-m", "1777", *ARTIFACT_DIRECTORIES]
        sandbox.commands.run(make_directories, user="root")

    @property
    def id(self) -> str:
        """Id of the sandbox."""
        return self.sandbox.sandbox_id

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Runs a command in a login shell, and returns its output in the order in which it came.

        A `timeout` of 0 means none. A command that takes longer has the exit code 124.
        """
        return self._run(command, timeout, _Cancellation())

    async def aexecute(
        self,
        command: str,
        *,
        timeout: int | None = None,
    ) -> ExecuteResponse:
        """Does the same in a thread; a task that is cancelled ends the command."""
        cancellation = _Cancellation()
        try:
            return await asyncio.to_thread(self._run, command, timeout, cancellation)
        except asyncio.CancelledError:
            await asyncio.to_thread(cancellation.cancel)
            raise

    def _run(
        self, command: str, timeout: int | None, cancellation: _Cancellation
    ) -> ExecuteResponse:
        limit = self._timeout if timeout is None else timeout
        output = _Output()
        try:
            # 0 is "no limit" in both.
            handle = self.sandbox.commands.stream(command, user=self._user, timeout=limit)
            with handle, cancellation.guard(handle):
                for chunk in handle.chunks():
                    output.add(chunk.data)
                exit_code = handle.exit_code
        except OperationTimeoutError:
            output.add(f"\nThe command was ended after {limit} seconds.\n".encode())
            exit_code = TIMEOUT_EXIT_CODE
        return output.response(exit_code)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files, with their directories; each has its own error."""
        return [FileUploadResponse(path, self._upload(path, data)) for path, data in files]

    def _upload(self, path: str, data: bytes) -> str | None:
        if not path.startswith("/"):
            return "invalid_path"
        try:
            self.sandbox.files.write(path, data, user=self._user)
        except WrennError as error:
            return self._file_error(path, error)
        return None

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files; each has its own error."""
        return [self._download(path) for path in paths]

    def _download(self, path: str) -> FileDownloadResponse:
        if not path.startswith("/"):
            return FileDownloadResponse(path, error="invalid_path")
        try:
            return FileDownloadResponse(
                path, self.sandbox.files.read(path, "bytes", user=self._user)
            )
        except WrennError as error:
            return FileDownloadResponse(path, error=self._file_error(path, error))

    def _file_error(self, path: str, error: WrennError) -> str:
        """Returns the code that Deep Agents has for an error, or else its message."""
        if isinstance(error, NotFoundError):
            return "file_not_found"
        if isinstance(error, ForbiddenError):
            return "permission_denied"
        if isinstance(error, InvalidRequestError):
            return "is_directory" if self._is_directory(path) else "invalid_path"
        return error.message

    def _is_directory(self, path: str) -> bool:
        with contextlib.suppress(WrennError):
            return self.sandbox.files.get_info(path, user=self._user).kind == "directory"
        return False


class _Cancellation:
    """Ends the command of another thread, also one that is only about to start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: CommandHandle | None = None
        self._is_cancelled = False

    @contextlib.contextmanager
    def guard(self, handle: CommandHandle) -> Iterator[None]:
        with self._lock:
            self._handle = handle
        if self._is_cancelled:
            handle.disconnect()
        try:
            yield
        finally:
            with self._lock:
                self._handle = None

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
            if self._handle is not None:
                # The end of the connection is the end of the command.
                self._handle.disconnect()


class _Output:
    """The first `MAX_OUTPUT` bytes of what a command wrote."""

    def __init__(self) -> None:
        self._parts = bytearray()
        self._is_truncated = False

    def add(self, data: bytes) -> None:
        room = MAX_OUTPUT - len(self._parts)
        self._parts += data[:room]
        self._is_truncated = self._is_truncated or len(data) > room

    def response(self, exit_code: int | None) -> ExecuteResponse:
        text = self._parts.decode(errors="replace")
        return ExecuteResponse(text, exit_code, self._is_truncated)
