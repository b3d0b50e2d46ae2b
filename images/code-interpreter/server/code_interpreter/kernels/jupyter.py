"""Kernels that speak Jupyter's protocol, over ZeroMQ on Unix sockets.

A cell is over with its reply on the shell socket and the state `idle` on iopub, in any order. iopub is always read: a
PUB socket drops what a slow reader leaves lying. If `idle` itself got lost, the reply alone ends the cell, later.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.session import Session

from .. import events
from ..errors import KernelFailure
from ..execution import Execution
from . import snippets
from .base import Kernel, kill_group

# Generous: guests may be emulated, and a kernel that dies is noticed at once.
START_SEC = 900
# How long the state `idle` may follow the reply.
IDLE_SEC = 5
# Largest message that is taken from a kernel; a larger one costs its connection, which is made again.
MAX_MESSAGE_BYTES = 128 << 20
# Formats of results, and no colours in tracebacks. No history on disk: it would be one for all kernels.
PYTHON_ARGUMENTS = [
    "--ext=code_interpreter.ipython.display",
    "--InteractiveShell.colors=NoColor",
    "--PlainTextFormatter.max_seq_length=0",
    "--HistoryManager.enabled=False",
]
RUNTIME_DIR = os.environ.get("CODE_INTERPRETER_RUNTIME", "/run/code-interpreter")


class Run:
    """A cell whose messages are awaited."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.replied = asyncio.Event()
        self.idle = asyncio.Event()


def find_spec(language: str) -> str | None:
    """Returns the name of the installed kernel for a language: the one of that name, or the first that names it."""
    specs = KernelSpecManager()
    # Debian's ipykernel is `python3`.
    wanted = {"python": "python3", "r": "ir"}.get(language, language)
    found = specs.get_all_specs()
    if wanted in found:
        return wanted
    for name, entry in sorted(found.items()):
        if entry["spec"].get("language", "").lower() == language:
            return str(name)
    return None


class JupyterKernel(Kernel):
    def __init__(self, language: str, cwd: str, environment: dict[str, str]) -> None:
        super().__init__(language, cwd, environment)
        self._manager: AsyncKernelManager | None = None
        self._session = Session()
        self._runs: dict[str, Run] = {}
        self._sockets: list[zmq.asyncio.Socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._pid = 0

    async def start(self) -> None:
        name = find_spec(self.language)
        if name is None:
            raise KernelFailure(f"no Jupyter kernel for {self.language} is installed")
        os.makedirs(RUNTIME_DIR, mode=0o700, exist_ok=True)
        path = os.path.join(RUNTIME_DIR, f"kernel-{secrets.token_hex(8)}.json")
        self._manager = AsyncKernelManager(kernel_name=name, transport="ipc", connection_file=path)
        arguments = PYTHON_ARGUMENTS if self.language == "python" else []
        try:
            await self._manager.start_kernel(cwd=self.cwd, env=self.environment, extra_arguments=arguments)
        except (OSError, NoSuchKernel) as failure:
            raise KernelFailure(f"the {self.language} kernel does not start: {failure}") from failure
        self._pid = getattr(self._manager.provisioner, "process").pid
        self.watch_process(self._pid)
        self._session = self._manager.session
        self._connect()
        ready = asyncio.ensure_future(self._wait_until_ready())
        try:
            is_ready = await asyncio.wait_for(self.run_until_end(ready), START_SEC)
        except asyncio.TimeoutError:
            await self.stop()
            raise KernelFailure(f"the {self.language} kernel is not ready after {START_SEC} s") from None
        finally:
            ready.cancel()
        if not is_ready:
            await self.stop()
            raise KernelFailure(f"the {self.language} kernel does not start: {self.end}")

    def _connect(self) -> None:
        context = zmq.asyncio.Context.instance()
        assert self._manager is not None
        info = self._manager.get_connection_info()
        for kind, port in ((zmq.DEALER, info["shell_port"]), (zmq.SUB, info["iopub_port"])):
            socket = context.socket(kind)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
            if kind == zmq.SUB:
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(f"ipc://{info['ip']!s}-{port}")
            self._sockets.append(socket)
        self._tasks = [asyncio.ensure_future(self._read_messages(socket)) for socket in self._sockets]

    async def _wait_until_ready(self) -> None:
        # Asked again and again, ever more slowly: the first answers may pass before the subscription holds.
        run = Run(Execution())
        delay = 1.0
        while True:
            await self._send("kernel_info_request", {}, run)
            try:
                await asyncio.wait_for(asyncio.gather(run.replied.wait(), run.idle.wait()), delay)
                self._forget(run)
                return
            except asyncio.TimeoutError:
                delay *= 2

    async def execute(self, code: str, execution: Execution) -> None:
        if not await self._run_cell(code, execution, silent=False) and self.end is not None:
            execution.fail("KernelDied", f"{self.end}; its variables are gone, and the next cell has a new kernel")

    async def configure(self, set_vars: dict[str, str], unset_vars: list[str], reseed: bool) -> None:
        code = snippets.configure(self.language, set_vars, unset_vars, reseed)
        if code:
            await self._run_cell(code, Execution(), silent=True)

    async def preload(self, modules: list[str]) -> None:
        if modules and self.language == "python":
            await self._run_cell(snippets.preload(modules), Execution(), silent=True)

    async def _run_cell(self, code: str, execution: Execution, silent: bool) -> bool:
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        run = Run(execution)
        await self._send("execute_request", content, run)
        over = asyncio.ensure_future(self._wait_until_over(run))
        try:
            return await self.run_until_end(over)
        finally:
            over.cancel()
            self._forget(run)

    async def _wait_until_over(self, run: Run) -> None:
        await run.replied.wait()
        try:
            await asyncio.wait_for(run.idle.wait(), IDLE_SEC)
        except asyncio.TimeoutError:
            pass

    def _forget(self, run: Run) -> None:
        for msg_id in [key for key, value in self._runs.items() if value is run]:
            del self._runs[msg_id]

    async def _send(self, kind: str, content: dict[str, Any], run: Run) -> None:
        message = self._session.msg(kind, content)
        self._runs[message["header"]["msg_id"]] = run
        # Not by Session.send: what is sent behind the back of an asyncio socket can hide what it receives.
        await self._sockets[0].send_multipart(self._session.serialize(message))

    async def _read_messages(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            parts = await socket.recv_multipart()
            try:
                _, frames = self._session.feed_identities(parts)
                message = self._session.deserialize(frames)
            except (ValueError, TypeError, UnicodeDecodeError):
                continue
            run = self._runs.get(message["parent_header"].get("msg_id", ""))
            if run is not None:
                handle_message(run, message["msg_type"], message["content"])

    async def interrupt(self) -> None:
        kill_group(self._pid, signal.SIGINT)

    def exit_status(self) -> int | None:
        assert self._manager is not None
        process = getattr(self._manager.provisioner, "process", None)
        status = process.poll() if process is not None else None
        return int(status) if status is not None else None

    async def stop(self) -> None:
        self.forget_process()
        for task in self._tasks:
            task.cancel()
        for socket in self._sockets:
            socket.close(linger=0)
        self._tasks, self._sockets = [], []
        if self._pid:
            kill_group(self._pid, signal.SIGKILL)
            assert self._manager is not None
            try:
                await self._manager.shutdown_kernel(now=True)
            except (OSError, RuntimeError):
                pass
            self._pid = 0
        if self.end is None:
            self.end = f"the {self.language} kernel was stopped"
        self.has_ended.set()


def handle_message(run: Run, kind: str, content: dict[str, Any]) -> None:
    """Publishes what a message of a kernel says."""
    execution = run.execution
    if kind == "stream":
        execution.publish(events.output(content["name"], content["text"]))
    elif kind in ("execute_result", "display_data"):
        execution.publish(events.result(content["data"], kind == "execute_result"))
    elif kind == "error":
        publish_error(execution, content)
    elif kind == "execute_input":
        execution.publish(events.execution_count(content["execution_count"]))
    elif kind == "status":
        if content["execution_state"] == "idle":
            run.idle.set()
    elif kind.endswith("_reply"):
        if content.get("status") == "error":
            publish_error(execution, content)
        elif content.get("status") in ("abort", "aborted"):
            execution.publish(events.error("ExecutionAborted", "the kernel did not run the cell"))
        run.replied.set()


def publish_error(execution: Execution, content: dict[str, Any]) -> None:
    traceback = "\n".join(content.get("traceback", []))
    execution.publish(events.error(content.get("ename", ""), content.get("evalue", ""), traceback))
