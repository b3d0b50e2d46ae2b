"""The executor: one interpreter in a sandbox, whose variables stay from step to step.

The interpreter runs `driver.py` as a command that ends with its connection. It is started at the
first code, and again, without its variables, after code that ended it or did not react to an
interrupt. The sandbox is deleted by `cleanup`, unless the caller gave it.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.resources
import io
import json
import re
import shlex
import threading
import types
import uuid
from collections.abc import Sequence
from typing import Any, cast

import PIL.Image
from smolagents.default_tools import FinalAnswerTool
from smolagents.local_python_executor import CodeOutput
from smolagents.monitoring import AgentLogger, LogLevel
from smolagents.remote_executors import RemotePythonExecutor
from smolagents.tools import Tool, get_tools_definition_code
from smolagents.utils import AgentError, AgentExecutionError
from wrenn_sandbox import CommandHandle, Sandbox, WrennError
from wrenn_sandbox.errors import CommandExitError, NotFoundError
from wrenn_sandbox.models import ProcessSignal

DEFAULT_TIMEOUT = 300
"""Seconds that the code of a step may take unless told otherwise."""

GRACE = 10.0
"""Seconds for code to react to an interrupt until its interpreter is killed."""

MAX_LOGS = 1024 * 1024
"""Characters of output of a step that are kept: its last ones."""

_OPTIONAL_IMPORT = re.compile(r"^(import|from) (PIL|numpy)\b.*\n", re.M)

INSTALL_TIMEOUT = 600
"""Seconds for pip."""


class WrennExecutor(RemotePythonExecutor):
    """Runs the code of a `CodeAgent` in a sandbox.

    The template needs `python3`, and `pip` for `additional_imports` and tools with requirements.
    """

    def __init__(
        self,
        additional_imports: Sequence[str] = (),
        logger: AgentLogger | None = None,
        allow_pickle: bool = False,
        *,
        sandbox: Sandbox | None = None,
        timeout: int = DEFAULT_TIMEOUT,
        python: str = "python3",
        **create: Any,
    ) -> None:
        """Creates the executor, and a sandbox with the options `create` unless one is given.

        `timeout` are the seconds that the code of a step may take; `python` is the interpreter.
        """
        super().__init__(
            list(additional_imports), logger or AgentLogger(LogLevel.ERROR), allow_pickle
        )
        if sandbox is not None and create:
            raise ValueError(f"a sandbox was given: {', '.join(create)} would have no effect")
        self._owns_sandbox = sandbox is None
        self.sandbox = sandbox or Sandbox.create(**create)
        """The sandbox: for files, checkpoints and forks."""
        self._timeout = timeout
        self._python = python
        self._interpreter: _Interpreter | None = None
        try:
            self.installed_packages = self.install_packages(list(additional_imports))
        except BaseException:
            self.cleanup()
            raise

    def __enter__(self) -> WrennExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.cleanup()

    def run_code_raise_errors(self, code: str) -> CodeOutput:
        """Runs code; an error in it is an `AgentError`, after which variables are still there."""
        if self._interpreter is None:
            self._interpreter = _Interpreter(self.sandbox, self._python)
        try:
            answer, logs = self._interpreter.run(code, self._timeout)
        except WrennError:
            # The next code gets a new interpreter.
            self._close_interpreter()
            raise
        if answer is None:
            self._close_interpreter()
            raise AgentExecutionError(
                f"{logs}\nThe code ended its interpreter, or did not end within {self._timeout} "
                "seconds and not after an interrupt either. All variables are lost.",
                self.logger,
            )
        if "error" not in answer:
            return CodeOutput(_read_value(answer), logs, is_final_answer=False)
        if answer["error"] == self.FINAL_ANSWER_EXCEPTION:
            final = self._deserialize_final_answer(answer["value"], self.allow_pickle)
            return CodeOutput(final, logs, is_final_answer=True)
        message = f"{logs}\nExecuting code yielded an error:\n{answer['traceback']}"
        if answer["error"] == "KeyboardInterrupt":
            message += f"The code was interrupted after {self._timeout} seconds."
        raise AgentExecutionError(message, self.logger)

    def send_tools(self, tools: dict[str, Tool]) -> None:
        """Defines tools in the sandbox, and installs what they need."""
        others = dict(tools)
        final = others.pop("final_answer", None)
        if final is not None:
            self._patch_final_answer_with_exception(cast(FinalAnswerTool, final))
            code = get_tools_definition_code({"final_answer": final})
            # Its method imports Pillow and NumPy where they are, and does without them.
            self.run_code_raise_errors(_OPTIONAL_IMPORT.sub("", code))
        super().send_tools(others)

    def install_packages(self, additional_imports: list[str]) -> list[str]:
        """Installs packages with pip."""
        if additional_imports:
            words = [self._python, "-m", "pip", "install", *additional_imports]
            # Debian's Python refuses otherwise; the sandbox has nothing to protect from it.
            envs = {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_ROOT_USER_ACTION": "ignore"}
            try:
                result = self.sandbox.commands.run(words, envs=envs, timeout=INSTALL_TIMEOUT)
            except CommandExitError as error:
                command = shlex.join(words)
                raise AgentError(f"{command} failed:\n{error.stderr}", self.logger) from error
            self.logger.log(result.stdout)
        return additional_imports

    def cleanup(self) -> None:
        """Ends the interpreter and deletes the sandbox, unless it was given."""
        self._close_interpreter()
        if self._owns_sandbox:
            try:
                self.sandbox.kill()
            except WrennError as error:
                self.logger.log_error(
                    f"the sandbox {self.sandbox.sandbox_id} was not deleted: {error}"
                )

    def delete(self) -> None:
        """Does the same."""
        self.cleanup()

    def _close_interpreter(self) -> None:
        if self._interpreter is not None:
            self._interpreter.close()
            self._interpreter = None


def _read_value(answer: dict[str, str]) -> Any:
    if "png" in answer:
        return PIL.Image.open(io.BytesIO(base64.b64decode(answer["png"])))
    return answer.get("text")


class _Interpreter:
    """The driver in the sandbox."""

    def __init__(self, sandbox: Sandbox, python: str) -> None:
        driver = importlib.resources.files(__package__).joinpath("driver.py").read_text()
        # `-c` has no `__file__`.
        program = f"__file__ = '<driver>'\nexec(compile({driver!r}, __file__, 'exec'))"
        self._handle: CommandHandle = sandbox.commands.stream([python, "-c", program], stdin=True)
        self._late = b""

    def run(self, code: str, timeout: int) -> tuple[dict[str, str] | None, str]:
        """Runs a cell; its answer is `None` if the interpreter ended. Also returns its output."""
        mark = f"\n<end of cell {uuid.uuid4()}>\n"
        logs = _Logs(mark, self._late)
        timers = [
            threading.Timer(timeout, self._signal, ["SIGINT"]),
            threading.Timer(timeout + GRACE, self._signal, ["SIGKILL"]),
        ]
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            self._handle.send_stdin(json.dumps({"code": code, "mark": mark}) + "\n")
            return self._read_answer(logs), logs.text()
        finally:
            self._late = logs.late
            for timer in timers:
                timer.cancel()

    def _read_answer(self, logs: _Logs) -> dict[str, str] | None:
        answer = bytearray()
        for chunk in self._handle.chunks():
            if chunk.stream == "stdout":
                answer += chunk.data
            else:
                logs.add(chunk.data)
            if answer.endswith(b"\n") and logs.is_complete:
                read: dict[str, str] = json.loads(answer)
                return read
        return None

    def _signal(self, signal: ProcessSignal) -> None:
        with contextlib.suppress(NotFoundError):
            self._handle.send_signal(signal)

    def close(self) -> None:
        self._handle.disconnect()


class _Logs:
    """Output of a cell until its mark; of more than `MAX_LOGS` bytes the last ones."""

    def __init__(self, mark: str, late: bytes) -> None:
        self._mark = mark.encode()
        self._data = bytearray(late)
        self.is_complete = False
        self.late = b""
        """What children of the code wrote behind the mark: output of the next cell."""

    def add(self, data: bytes) -> None:
        if self.is_complete:
            self.late += data
            return
        begin = max(0, len(self._data) - len(self._mark))
        self._data += data
        end = self._data.find(self._mark, begin)
        if end >= 0:
            self.is_complete = True
            self.late = bytes(self._data[end + len(self._mark) :])
            del self._data[end:]
        # Twice as much first: what is cut is not moved with each piece.
        elif len(self._data) > 2 * MAX_LOGS:
            del self._data[:-MAX_LOGS]

    def text(self) -> str:
        return bytes(self._data[-MAX_LOGS:]).decode(errors="replace")
