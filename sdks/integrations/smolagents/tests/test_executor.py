"""Agents with a scripted model, and code of all kinds, run in a real sandbox."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from smolagents.memory import ActionStep
from smolagents.models import ChatMessage, MessageRole, Model
from smolagents.utils import AgentError
from wrenn_sandbox import Sandbox
from wrenn_smolagents import WrennExecutor
from wrenn_smolagents.executor import MAX_LOGS
from wrenn_testing import read_blocks, run_block

from smolagents import CodeAgent, Tool, tool

PACKAGE = pathlib.Path(__file__).parents[1]


class ScriptedModel(Model):
    """Says one text after the other."""

    def __init__(self, *codes: str) -> None:
        super().__init__(model_id="scripted")
        self._codes = list(codes)

    def generate(self, *args: Any, **kwargs: Any) -> ChatMessage:
        text = f"Thought: go on.\n<code>\n{self._codes.pop(0)}\n</code>"
        return ChatMessage(role=MessageRole.ASSISTANT, content=text)


@tool
def double(number: int) -> int:
    """Doubles a number.

    Args:
        number: The number.
    """
    return number * 2


@pytest.fixture(scope="module")
def executor() -> Iterator[WrennExecutor]:
    with WrennExecutor(timeout=60, labels={"suite": "smolagents"}) as executor:
        yield executor


def test_agent_keeps_variables_and_uses_tools(executor: WrennExecutor) -> None:
    model = ScriptedModel(
        "import platform\nnumbers = [n * n for n in range(given)]\nprint(platform.node())",
        "numbers[99]",
        "final_answer({'sum': double(sum(numbers)), 'kind': {1, 2}})",
    )
    agent = CodeAgent(tools=[double], model=model, executor=executor, max_steps=5)
    answer = agent.run("double the sum of squares", additional_args={"given": 11})
    assert answer == {"sum": 770, "kind": {1, 2}}
    steps = [step for step in agent.memory.steps if isinstance(step, ActionStep)]
    assert len(steps) == 3
    assert "IndexError" in str(steps[1].error)
    hostname = executor.sandbox.commands.run(["hostname"]).stdout.strip()
    assert hostname in str(steps[0].observations)


def test_readme_runs_as_written() -> None:
    (block,) = read_blocks(PACKAGE)
    model = ScriptedModel("final_answer(sum(n * n for n in range(1, 11)))")
    output = run_block(block, model=model)
    assert output.endswith("385\n"), output


@pytest.mark.long
def test_output_of_children_is_in_order(executor: WrennExecutor) -> None:
    code = "import os, sys\nprint('a')\nos.system('echo b')\nsys.stderr.write('c\\n')\n6 * 7"
    result = executor(code)
    assert (result.logs, result.output, result.is_final_answer) == ("a\nb\nc\n", "42", False)
    late = executor("import subprocess\np = subprocess.Popen('sleep 1; echo late', shell=True)")
    assert late.logs == ""
    assert executor("p.wait()").logs == "late\n"


def test_error_has_lines_of_code_alone(executor: WrennExecutor) -> None:
    executor("kept = 1")
    with pytest.raises(AgentError) as info:
        executor("def f():\n    return 1 / 0\nprint('before')\nf()")
    message = str(info.value)
    assert message.startswith("before\n")
    assert "return 1 / 0" in message
    assert "ZeroDivisionError" in message
    assert "driver" not in message
    assert executor("kept").output == "1"
    with pytest.raises(AgentError, match="SyntaxError"):
        executor("1 +")


@pytest.mark.long
def test_interrupt_keeps_variables(executor: WrennExecutor) -> None:
    executor("kept = 2")
    executor._timeout = 2
    try:
        begin = time.monotonic()
        with pytest.raises(AgentError, match="interrupted after 2 seconds"):
            executor("import time\nwhile True:\n    time.sleep(1)")
        assert time.monotonic() - begin < 30
        assert executor("kept").output == "2"
    finally:
        executor._timeout = 60


@pytest.mark.long
def test_dead_interpreter_is_replaced(executor: WrennExecutor) -> None:
    executor("gone = 1")
    with pytest.raises(AgentError, match="All variables are lost"):
        executor("import os\nprint('end')\nos._exit(3)")
    with pytest.raises(AgentError, match="NameError"):
        executor("gone")


@pytest.mark.long
def test_pictures_come_back() -> None:
    """The image has no Pillow, so a class with its name stands for it."""
    code = (
        "import base64, sys, types\n"
        "class Image:\n"
        "    def save(self, file, format):\n"
        f"        file.write(base64.b64decode('{PIXEL}'))\n"
        "Image.__module__ = 'PIL.Image'\n"
        "Image()"
    )
    with WrennExecutor() as executor:
        assert executor(code).output.size == (1, 1)


PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


@pytest.mark.long
def test_given_sandbox_outlives_executor() -> None:
    with Sandbox.create() as sandbox:
        with WrennExecutor(sandbox=sandbox) as executor:
            executor("open('/tmp/made', 'w').write('x')")
        assert sandbox.files.read("/tmp/made") == "x"
        with pytest.raises(ValueError, match="template would have no effect"):
            WrennExecutor(sandbox=sandbox, template="minimal")


@pytest.mark.long
def test_failed_installation_leaves_no_sandbox() -> None:
    before = Sandbox.count()
    with pytest.raises(AgentError, match="pip install no-such-package failed"):
        WrennExecutor(["no-such-package"])
    assert Sandbox.count() == before


@pytest.mark.long
def test_large_values_and_logs_pass(executor: WrennExecutor) -> None:
    text = "é" * (1024 * 1024)
    executor.send_variables({"text": text})
    result = executor("print(text)\nprint('end')\nlen(text)")
    assert result.output == str(len(text))
    assert result.logs.endswith("é\nend\n")
    assert len(result.logs.encode()) <= MAX_LOGS + 3


@pytest.mark.long
def test_tool_class_with_state_works(executor: WrennExecutor) -> None:
    class Counter(Tool):  # type: ignore[no-untyped-call]
        name = "count"
        description = "Counts."
        inputs: dict[str, dict[str, str | type | bool]] = {}  # noqa: RUF012
        output_type = "integer"

        def setup(self) -> None:
            self.calls = 0

        def forward(self) -> int:
            self.calls = getattr(self, "calls", 0) + 1
            return self.calls

    counter: Any = Counter
    executor.send_tools({"count": counter()})
    executor("count()")
    assert executor("count()").output == "2"


@pytest.mark.long
def test_code_that_ignores_interrupts_is_killed(executor: WrennExecutor) -> None:
    executor._timeout = 2
    try:
        with pytest.raises(AgentError, match="not after an interrupt either"):
            executor(
                "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                "while True:\n    time.sleep(1)"
            )
    finally:
        executor._timeout = 60
    assert executor("1 + 1").output == "2"
