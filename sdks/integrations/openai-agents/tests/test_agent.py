"""An agent with a scripted model does a job in a real sandbox."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from agents import Runner, set_tracing_disabled
from agents.items import TResponseOutputItem
from agents.run import RunConfig
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.capabilities import Shell
from agents.sandbox.entries import File
from agents.testing import ScriptedModel, assistant_message, function_call
from wrenn_openai_agents import WrennSandboxClient, WrennSandboxClientOptions
from wrenn_sandbox import Sandbox
from wrenn_testing import read_blocks, run_block

PACKAGE = pathlib.Path(__file__).parents[1]

set_tracing_disabled(True)


def scripted(*steps: str | dict[str, Any]) -> ScriptedModel:
    """Returns a model that runs these commands one after the other, and says the texts."""
    outputs: list[list[TResponseOutputItem]] = []
    for number, step in enumerate(steps):
        if isinstance(step, str):
            outputs.append([assistant_message(step)])
        else:
            outputs.append([function_call("exec_command", step, call_id=f"call-{number}")])
    return ScriptedModel(outputs)


def sandboxes() -> int:
    return Sandbox.count(labels={"openai-agents-session": None})


def tool_outputs(result: Any) -> list[str]:
    return [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]


async def test_agent_works_on_its_manifest() -> None:
    model = scripted(
        {"cmd": "wc -w <docs/words.txt >count.txt; cat count.txt; pwd; echo $KIND"},
        {"cmd": "exit 3"},
        "three",
    )
    manifest = Manifest.model_validate(
        {
            "entries": {"docs/words.txt": File(content=b"one two three")},
            "environment": {"value": {"KIND": "scripted"}},
        }
    )
    agent = SandboxAgent(
        name="Counter", model=model, default_manifest=manifest, capabilities=[Shell()]
    )
    sandbox = SandboxRunConfig(
        client=WrennSandboxClient(), options=WrennSandboxClientOptions(allow_internet=False)
    )
    result = await Runner.run(agent, "count", run_config=RunConfig(sandbox=sandbox))
    assert result.final_output == "three"
    first, second = tool_outputs(result)
    assert "3\n/workspace\nscripted" in first
    assert "exited with code 3" in second
    assert sandboxes() == 0


def test_readme_runs_as_written() -> None:
    (block,) = read_blocks(PACKAGE)
    model = scripted({"cmd": "wc -w <words.txt"}, "There are three.")
    assert run_block(block, model=model) == "There are three.\n"
    assert sandboxes() == 0


@pytest.mark.long
async def test_paused_session_goes_on() -> None:
    client = WrennSandboxClient()
    options = WrennSandboxClientOptions(pause_on_exit=True)
    session = await client.create(options=options)
    async with session:
        await session.exec("echo kept > kept.txt; (sleep 3600 &) >/dev/null 2>&1")
    payload = client.serialize_session_state(session.state)
    await client.delete(session)
    state = client.deserialize_session_state(payload)
    again = await client.resume(state)
    async with again:
        result = await again.exec("cat kept.txt; pgrep -c sleep")
        assert result.stdout == b"kept\n1\n"
        again._inner.state.pause_on_exit = False  # type: ignore[attr-defined]
    assert sandboxes() == 0
