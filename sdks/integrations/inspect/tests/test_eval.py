"""Evaluations with a scripted model run in real sandboxes."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessage, ChatMessageTool, ModelOutput, get_model
from inspect_ai.scorer import Score, Target, accuracy, scorer
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, use_tools
from inspect_ai.tool import bash, python
from inspect_ai.util import OutputLimitExceededError, SandboxEnvironmentSpec, sandbox
from inspect_ai.util._sandbox.limits import override_max_exec_output_size
from wrenn_inspect import WrennConfig, WrennSandboxEnvironment
from wrenn_sandbox import Sandbox
from wrenn_testing import read_blocks, run_block

PACKAGE = pathlib.Path(__file__).parents[1]


def tool_call(name: str, **arguments: str) -> ModelOutput:
    return ModelOutput.for_tool_call("mockllm/model", name, arguments)


def said(text: str) -> ModelOutput:
    return ModelOutput.from_content("mockllm/model", text)


def sandboxes() -> int:
    return Sandbox.count(labels={"inspect-task": None})


@scorer(metrics=[accuracy()])
def wrote_answer():  # type: ignore[no-untyped-def]
    async def score(state: TaskState, target: Target) -> Score:
        text = await sandbox().read_file("answer.txt")
        return Score(value=text.strip() == target.text, answer=text)

    return score


def test_samples_have_sandboxes_of_their_own() -> None:
    outputs = [
        tool_call("bash", command="test ! -e answer.txt && wc -w <words.txt >answer.txt"),
        tool_call("python", code="print(open('answer.txt').read())"),
        said("done"),
    ]
    task = Task(
        dataset=[
            Sample(input="count", target="3", files={"words.txt": "one two three"}),
            Sample(input="count", target="1", files={"words.txt": "one"}),
        ],
        solver=[use_tools(bash(timeout=60), python(timeout=60)), generate()],
        scorer=wrote_answer(),
        sandbox=SandboxEnvironmentSpec("wrenn", WrennConfig(allow_internet=False)),
        name="words",
    )
    model = get_model("mockllm/model", custom_outputs=outputs * 2)
    (log,) = eval(task, model=model, display="none", max_samples=1)
    assert log.status == "success", log.error
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 1
    assert sandboxes() == 0


@pytest.mark.long
def test_failed_sample_leaves_no_sandbox() -> None:
    @solver
    def broken() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            assert sandboxes() == 1
            raise ValueError("broken")

        return solve

    task = Task(dataset=[Sample(input="x")], solver=broken(), sandbox="wrenn")
    (log,) = eval(task, model="mockllm/model", display="none")
    assert log.status == "error"
    assert sandboxes() == 0


def test_readme_runs_as_written() -> None:
    (block,) = read_blocks(PACKAGE)

    def answer(messages: list[ChatMessage], *_: Any) -> ModelOutput:
        if isinstance(messages[-1], ChatMessageTool):
            return said(f"It is {messages[-1].text}")
        return tool_call("bash", command="cat secret.txt")

    model = get_model("mockllm/model", custom_outputs=answer)
    assert run_block(block, model=model) == "success 1.0\n"
    assert sandboxes() == 0


@pytest.mark.long
async def test_output_beyond_limit_ends_command() -> None:
    environments = await WrennSandboxEnvironment.sample_init("limit", None, {})
    environment = environments["default"]
    try:
        with override_max_exec_output_size(1024), pytest.raises(OutputLimitExceededError) as info:
            await environment.exec(["yes"])
        assert info.value.truncated_output == "y\n" * 512
        assert (await environment.exec(["pgrep", "-x", "yes"])).returncode == 1
        connection = await environment.connection(user="root")
        assert connection.command.startswith("wrenn shell --user root ")
    finally:
        await WrennSandboxEnvironment.sample_cleanup("limit", None, environments, False)


@pytest.mark.long
async def test_interrupted_sample_is_deleted_by_task() -> None:
    environments = await WrennSandboxEnvironment.sample_init("broken-off", None, {})
    await WrennSandboxEnvironment.sample_cleanup("broken-off", None, environments, True)
    assert sandboxes() == 1
    await WrennSandboxEnvironment.task_cleanup("other", None, True)
    await WrennSandboxEnvironment.task_cleanup("broken-off", None, False)
    assert sandboxes() == 1
    await WrennSandboxEnvironment.task_cleanup("broken-off", None, True)
    assert sandboxes() == 0


@pytest.mark.long
def test_cleanup_command_deletes_what_was_left() -> None:
    left = Sandbox.create(labels={"inspect-task": "killed"})
    inspect = str(pathlib.Path(sys.executable).with_name("inspect"))
    ran = subprocess.run(
        [inspect, "sandbox", "cleanup", "wrenn"], capture_output=True, text=True, check=True
    )
    assert f"deleted {left.sandbox_id}" in ran.stdout
    assert sandboxes() == 0


def test_unknown_option_of_config_is_named() -> None:
    with pytest.raises(ValueError, match="memory"):
        WrennSandboxEnvironment.config_deserialize({"memory": 1})
