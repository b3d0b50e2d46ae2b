"""A context: one kernel, the queue of cells for it, and its environment.

    idle ──cell──▶ starting the kernel if there is none, configuring it, running ──▶ idle
    running: the client leaves ──▶ interrupted, again and again; after INTERRUPT_SEC the kernel is killed
    any: the kernel dies ──▶ the cell fails; the next one starts a new kernel and is told
"""

from __future__ import annotations

import asyncio
import os
import secrets

from . import events, sandbox
from .errors import NotFound, RequestError, TooMany
from .execution import Execution
from .kernels.base import Kernel
from .kernels.bash import BashKernel
from .kernels.jupyter import JupyterKernel
from .kernels.node import NodeKernel

# Most cells that wait for one kernel, with the one that runs.
MAX_WAITING = 64
# How long a cell may go on after its client has left.
INTERRUPT_SEC = 20


def create_kernel(language: str, cwd: str, environment: dict[str, str]) -> Kernel:
    if language == "bash":
        return BashKernel(language, cwd, environment)
    if language in ("javascript", "typescript"):
        return NodeKernel(language, cwd, environment)
    return JupyterKernel(language, cwd, environment)


class Context:
    def __init__(self, language: str, cwd: str) -> None:
        self.id = secrets.token_hex(16)
        self.language = language
        self.cwd = cwd
        self._kernel: Kernel | None = None
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._is_removed = False
        # Whether cells of the user have run in this kernel: their random states are theirs.
        self._is_used = False
        # The sandbox in which the kernel was configured, and what of its environment the kernel has.
        self._identity = ""
        self._has_environment = False
        self._environment: dict[str, str] = {}
        # Variables of the last cell alone, to be taken back.
        self._temporary: list[str] = []

    async def start(self) -> None:
        """Starts the kernel, unless it runs. Raises RequestError."""
        async with self._lock:
            await self._start_kernel()

    async def preload(self, modules: list[str]) -> None:
        """Imports modules in the kernel, so that cells need not; those that are not there are passed over."""
        async with self._lock:
            kernel = await self._start_kernel()
            await kernel.preload(modules)

    def reserve(self) -> None:
        """Takes a place in the queue. Raises TooMany."""
        if self._waiting >= MAX_WAITING:
            raise TooMany(f"{MAX_WAITING} cells wait for the context {self.id} already; wait for them to end")
        self._waiting += 1

    def release(self) -> None:
        self._waiting -= 1

    async def execute(self, code: str, variables: dict[str, str], token: str | None, execution: Execution) -> None:
        """Runs a cell after those before it. Ends the execution in any case; a cancellation interrupts the cell."""
        try:
            async with self._lock:
                if self._is_removed:
                    raise NotFound(f"Context {self.id} not found")
                await self._execute_locked(code, variables, token, execution)
        except RequestError as failure:
            execution.fail(type(failure).__name__, str(failure))
        finally:
            execution.finish()

    async def _execute_locked(
        self, code: str, variables: dict[str, str], token: str | None, execution: Execution
    ) -> None:
        if self._kernel is not None and self._kernel.end is not None:
            text = f"[{self._kernel.end}; this is a new one, without the variables of before]\n"
            execution.publish(events.output("stderr", text))
        kernel = await self._start_kernel()
        await self._configure(kernel, variables, token)
        self._is_used = True
        running = asyncio.ensure_future(kernel.execute(code, execution))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await self._end_cell(kernel, running)
            raise

    async def _end_cell(self, kernel: Kernel, running: asyncio.Future[None]) -> None:
        """Interrupts a cell until it ends, and kills the kernel of one that does not."""
        deadline = asyncio.get_running_loop().time() + INTERRUPT_SEC
        delay = 0.5
        while not running.done():
            if asyncio.get_running_loop().time() > deadline:
                kernel.end = kernel.end or f"the {self.language} kernel did not obey interrupts and was killed"
                await kernel.stop()
                break
            await kernel.interrupt()
            await asyncio.wait({running}, timeout=delay)
            delay = min(delay * 2, 5)
        await asyncio.wait({running}, timeout=5)

    async def _start_kernel(self) -> Kernel:
        if self._kernel is not None:
            if self._kernel.end is None:
                return self._kernel
            await self._kernel.stop()
            self._kernel = None
        environment = {**os.environ, **self._environment}
        kernel = create_kernel(self.language, self.cwd, environment)
        await kernel.start()
        self._kernel = kernel
        self._is_used = False
        self._temporary = []
        if not self._identity:
            self._identity = sandbox.read_identity()
        return kernel

    async def _configure(self, kernel: Kernel, variables: dict[str, str], token: str | None) -> None:
        """Gives the kernel the environment of the sandbox and of the cell, and takes back that of the cell before."""
        identity = sandbox.read_identity()
        is_copy = identity != self._identity
        set_vars: dict[str, str] = {}
        unset_vars = {name for name in self._temporary if name not in variables}
        if is_copy or not self._has_environment:
            found = await asyncio.to_thread(sandbox.fetch_environment, token)
            if found is not None:
                unset_vars |= set(self._environment) - set(found)
                set_vars |= found
                self._environment = found
                self._has_environment = True
        for name in list(unset_vars):
            before = self._environment.get(name, os.environ.get(name))
            if before is not None:
                unset_vars.discard(name)
                set_vars.setdefault(name, before)
        set_vars |= variables
        reseed = is_copy and not self._is_used
        if set_vars or unset_vars or reseed:
            await kernel.configure(set_vars, sorted(unset_vars), reseed)
        self._identity = identity
        self._temporary = sorted(variables)

    async def restart(self) -> None:
        """Ends the kernel, with the cell that runs, and starts a new one."""
        await self._kill_kernel(f"the {self.language} kernel was restarted")
        async with self._lock:
            # The client asked for it, and need not be told again.
            if self._kernel is not None and self._kernel.end is not None:
                await self._kernel.stop()
                self._kernel = None
            await self._start_kernel()

    async def remove(self) -> None:
        """Ends the kernel for good; cells that wait fail."""
        self._is_removed = True
        await self._kill_kernel("the context was removed")

    async def _kill_kernel(self, reason: str) -> None:
        if self._kernel is not None:
            self._kernel.end = self._kernel.end or reason
            await self._kernel.stop()
