"""What all kernels have in common."""

from __future__ import annotations

import abc
import asyncio
import os
import signal

from ..execution import Execution

# A process that the kernel of the guest should end first when memory is short: cells, not the server.
OOM_SCORE = 500


class Kernel(abc.ABC):
    """A process that runs cells of one language, one at a time."""

    def __init__(self, language: str, cwd: str, environment: dict[str, str]) -> None:
        self.language = language
        self.cwd = cwd
        self.environment = environment
        # Why it ended, as text; None while it lives.
        self.end: str | None = None
        self.has_ended = asyncio.Event()
        self._pidfd: int | None = None

    @abc.abstractmethod
    async def start(self) -> None:
        """Starts the process and waits until it takes cells. Raises KernelFailure."""

    @abc.abstractmethod
    async def execute(self, code: str, execution: Execution) -> None:
        """Runs a cell and publishes its events. Returns when it is over; a death of the kernel ends it, too."""

    @abc.abstractmethod
    async def configure(self, set_vars: dict[str, str], unset_vars: list[str], reseed: bool) -> None:
        """Changes environment variables, and draws new random states if `reseed`."""

    async def preload(self, modules: list[str]) -> None:
        """Imports modules, where the language has such. They are no variables of the user."""

    @abc.abstractmethod
    async def interrupt(self) -> None:
        """Asks the cell that runs to end."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """Kills the process and all that it started in its group. Can be called at any time, and again."""

    def watch_process(self, pid: int) -> None:
        """Notices the end of the process."""
        try:
            with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(OOM_SCORE))
        except OSError:
            pass
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._process_ended, pid)

    def exit_status(self) -> int | None:
        """Returns the exit status as `subprocess` has it, once the process has ended."""
        return None

    def _process_ended(self, pid: int) -> None:
        self.forget_process()
        status = self.exit_status()
        self.end = describe_end(self.language, status)
        self.has_ended.set()

    def forget_process(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    async def run_until_end(self, cell: asyncio.Future[None]) -> bool:
        """Waits for a cell or for the end of the process. Returns false if the process has ended first."""
        ended: asyncio.Future[object] = asyncio.ensure_future(self.has_ended.wait())
        waited: set[asyncio.Future[object]] = {cell, ended}  # type: ignore[arg-type]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            return cell.done()
        finally:
            ended.cancel()


def describe_end(language: str, status: int | None) -> str:
    if status is None:
        return f"the {language} kernel ended"
    if status >= 0:
        return f"the {language} kernel exited with code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (perhaps the sandbox has too little memory)" if -status == signal.SIGKILL else ""
    return f"the {language} kernel was ended by {name}{hint}"


def kill_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass
