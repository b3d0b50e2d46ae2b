"""Kernels that are driven over pipes: requests in, a line for each thing that happened out, output on its own pipes.

Output that a cell wrote is in its pipe before the line that ends the cell is written, so that what can be read then
without waiting belongs to the cell. What processes in the background write later goes to the next cell, or nowhere.
"""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import os
import signal
import subprocess

from .. import events
from ..errors import KernelFailure
from ..execution import Execution
from .base import Kernel, kill_group

READ_BYTES = 256 << 10
START_SEC = 300


class Pipe:
    """The reading end of a pipe of the kernel, without blocking."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)

    def read(self) -> bytes | None:
        """Returns what is there: None if nothing is, empty at the end."""
        try:
            return os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return None

    def close(self) -> None:
        if self.fd >= 0:
            asyncio.get_running_loop().remove_reader(self.fd)
            os.close(self.fd)
            self.fd = -1


class Output(Pipe):
    """Standard output or error: published as text while a cell runs."""

    def __init__(self, fd: int, stream: str) -> None:
        super().__init__(fd)
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.execution: Execution | None = None
        asyncio.get_running_loop().add_reader(fd, self.pump)

    def pump(self) -> bool:
        """Publishes what can be read at once. Returns false if nothing could."""
        data = self.read()
        if data is None:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(self.fd)
            return False
        text = self._decoder.decode(data)
        if text and self.execution is not None:
            self.execution.publish(events.output(self._stream, text))
        return True

    def drain(self) -> None:
        # Bounded: a process in the background may write for ever.
        for _ in range(64):
            if self.fd < 0 or not self.pump():
                return


class ProcessKernel(Kernel):
    """A kernel whose process reads requests from one descriptor and writes lines to another."""

    # Whether requests come on standard input; if not, it is empty.
    reads_stdin = False

    def __init__(self, language: str, cwd: str, environment: dict[str, str]) -> None:
        super().__init__(language, cwd, environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = -1
        self._lines: Pipe | None = None
        self._buffer = b""
        self._outputs: list[Output] = []
        self._count = 0
        self._execution: Execution | None = None
        self._over: asyncio.Future[None] | None = None

    def command(self, requests: int, lines: int) -> list[str]:
        """Returns the command line of the process, given its two descriptors."""
        raise NotImplementedError

    def handle_line(self, line: bytes, execution: Execution) -> bool:
        """Publishes what a line says. Returns true if it ends the cell."""
        raise NotImplementedError

    async def start(self) -> None:
        requests_in, requests = os.pipe()
        lines, lines_out = os.pipe()
        # High numbers, out of the way of what users redirect.
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in (requests_in, lines_out)]
        try:
            self._process = subprocess.Popen(
                self.command(*theirs),
                cwd=self.cwd,
                env=self.environment,
                stdin=requests_in if self.reads_stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=theirs[1:] if self.reads_stdin else theirs,
                start_new_session=True,
            )
        except OSError as failure:
            os.close(requests)
            os.close(lines)
            raise KernelFailure(f"the {self.language} kernel does not start: {failure}") from failure
        finally:
            for fd in (requests_in, lines_out, *theirs):
                os.close(fd)
        self.watch_process(self._process.pid)
        os.set_blocking(requests, False)
        self._requests = requests
        self._lines = Pipe(lines)
        asyncio.get_running_loop().add_reader(lines, self._read_lines)
        self._start_outputs()
        try:
            is_ready = await asyncio.wait_for(self._run(self.first_request(), Execution()), START_SEC)
        except asyncio.TimeoutError:
            is_ready = False
        if not is_ready:
            await self.stop()
            raise KernelFailure(f"the {self.language} kernel does not start: {self.end}")

    def first_request(self) -> bytes:
        """Returns a request whose end tells that the process is ready."""
        raise NotImplementedError

    def _start_outputs(self) -> None:
        assert self._process is not None
        for pipe, stream in ((self._process.stdout, "stdout"), (self._process.stderr, "stderr")):
            assert pipe is not None
            fd = os.dup(pipe.fileno())
            pipe.close()
            self._outputs.append(Output(fd, stream))

    async def run_request(self, request: bytes, execution: Execution) -> None:
        """Runs a cell of the user: counts it, and tells the death of the kernel."""
        self._count += 1
        execution.publish(events.execution_count(self._count))
        if not await self._run(request, execution):
            self.publish_end(execution)

    def publish_end(self, execution: Execution) -> None:
        execution.fail("KernelDied", f"{self.end}; its variables are gone, and the next cell has a new kernel")

    async def _run(self, request: bytes, execution: Execution) -> bool:
        self._over = asyncio.get_running_loop().create_future()
        self._execution = execution
        for output in self._outputs:
            output.execution = execution
        writing = asyncio.ensure_future(self._write(request))
        try:
            return await self.run_until_end(self._over)
        finally:
            writing.cancel()
            for output in self._outputs:
                output.drain()
                output.execution = None
            self._execution = None

    async def _write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        while data and self.end is None:
            try:
                data = data[os.write(self._requests, data) :]
            except BlockingIOError:
                writable = asyncio.Event()
                loop.add_writer(self._requests, writable.set)
                try:
                    await writable.wait()
                finally:
                    loop.remove_writer(self._requests)
            except BrokenPipeError:
                return

    def _read_lines(self) -> None:
        assert self._lines is not None
        data = self._lines.read()
        if data is None:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(self._lines.fd)
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            execution = self._execution
            if execution is not None and self.handle_line(line, execution):
                if self._over is not None and not self._over.done():
                    self._over.set_result(None)

    async def interrupt(self) -> None:
        if self._process is not None:
            kill_group(self._process.pid, signal.SIGINT)

    def exit_status(self) -> int | None:
        if self._process is None:
            return None
        try:
            return self._process.wait(5)
        except subprocess.TimeoutExpired:
            return None

    async def stop(self) -> None:
        if self._process is not None:
            kill_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.forget_process()
        for pipe in (*self._outputs, *([self._lines] if self._lines else [])):
            pipe.close()
        if self._requests >= 0:
            os.close(self._requests)
            self._requests = -1
        if self.end is None:
            self.end = f"the {self.language} kernel was stopped"
        self.has_ended.set()
