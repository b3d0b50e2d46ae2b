"""An agent with a scripted model does a job in a real sandbox."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from deepagents import create_deep_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import Runnable
from wrenn_langchain import WrennBackend
from wrenn_langchain.backend import MAX_OUTPUT
from wrenn_sandbox import Sandbox
from wrenn_testing import read_blocks, run_block

PACKAGE = pathlib.Path(__file__).parents[1]


class ScriptedModel(GenericFakeChatModel):
    """Says what the script says, whatever tools there are."""

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any], **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        return self


def scripted(*steps: tuple[str, dict[str, Any]] | str) -> ScriptedModel:
    """Returns a model that calls these tools one after the other, and then says the text."""
    messages = []
    for number, step in enumerate(steps):
        if isinstance(step, str):
            messages.append(AIMessage(step))
            continue
        name, args = step
        call = {"name": name, "args": args, "id": f"call-{number}", "type": "tool_call"}
        messages.append(AIMessage("", tool_calls=[call]))
    return ScriptedModel(messages=iter(messages))


@pytest.fixture(scope="module")
def backend() -> Iterator[WrennBackend]:
    with Sandbox.create(labels={"suite": "langchain"}) as sandbox:
        yield WrennBackend(sandbox)


def test_agent_writes_edits_and_runs(backend: WrennBackend) -> None:
    model = scripted(
        ("write_file", {"file_path": "/tmp/job/sum.py", "content": "print(sum(range(5)))\n"}),
        ("execute", {"command": "python3 /tmp/job/sum.py"}),
        (
            "edit_file",
            {"file_path": "/tmp/job/sum.py", "old_string": "range(5)", "new_string": "range(11)"},
        ),
        ("execute", {"command": "python3 /tmp/job/sum.py; echo bad >&2; exit 3"}),
        ("grep", {"pattern": "sum(", "path": "/tmp/job"}),
        "done",
    )
    agent = create_deep_agent(model=model, backend=backend)
    answer = agent.invoke({"messages": [{"role": "user", "content": "sum"}]})
    results = [str(m.content) for m in answer["messages"] if isinstance(m, ToolMessage)]
    assert len(results) == 5, results
    assert "10" in results[1]
    assert "55" in results[3]
    assert "bad" in results[3]
    assert "3" in results[3]
    assert "/tmp/job/sum.py" in results[4]
    assert answer["messages"][-1].content == "done"
    assert backend.sandbox.files.read("/tmp/job/sum.py") == "print(sum(range(11)))\n"


def test_readme_runs_as_written() -> None:
    (block,) = read_blocks(PACKAGE)
    model = scripted(
        (
            "write_file",
            {
                "file_path": "/tmp/squares.py",
                "content": "print([n * n for n in range(1, 11)])\n",
            },
        ),
        ("execute", {"command": "python3 /tmp/squares.py"}),
        "It printed ten squares.",
    )
    assert run_block(block, model=model) == "It printed ten squares.\n"


@pytest.mark.long
def test_execute_beyond_timeout_is_ended(backend: WrennBackend) -> None:
    begin = time.monotonic()
    result = backend.execute("echo before; sleep 5999; echo after", timeout=15)
    assert time.monotonic() - begin < 60
    assert result.exit_code == 124
    assert result.output == "before\n\nThe command was ended after 15 seconds.\n"
    assert not is_running(backend, "sleep 5999")


@pytest.mark.long
async def test_cancelled_execute_ends_command(backend: WrennBackend) -> None:
    task = asyncio.create_task(backend.aexecute("sleep 5998"))
    while not await asyncio.to_thread(is_running, backend, "sleep 5998"):
        assert not task.done(), task.result()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadline = time.monotonic() + 30
    while await asyncio.to_thread(is_running, backend, "sleep 5998"):
        assert time.monotonic() < deadline


def is_running(backend: WrennBackend, command: str) -> bool:
    words = command.split()
    result = backend.sandbox.commands.run(["pgrep", "-fx", " ".join(words)], check=False)
    return result.exit_code == 0


@pytest.mark.long
def test_execute_with_much_output_is_truncated(backend: WrennBackend) -> None:
    result = backend.execute(f"yes | head -c {MAX_OUTPUT + 10}")
    assert result.exit_code == 0
    assert result.truncated
    assert len(result.output) == MAX_OUTPUT


@pytest.mark.long
def test_file_errors_have_codes(backend: WrennBackend) -> None:
    paths = ["/tmp/none", "/etc", "relative", "/root/.bashrc"]
    errors = [response.error for response in backend.download_files(paths)]
    assert errors == ["file_not_found", "is_directory", "invalid_path", "permission_denied"]
    files = [("/etc/x", b""), ("relative", b""), ("/etc", b""), ("/tmp/deep/er/x", b"1")]
    uploads = [response.error for response in backend.upload_files(files)]
    assert uploads == ["permission_denied", "invalid_path", "is_directory", None]


@pytest.mark.long
def test_glob_and_write_do_as_documented(backend: WrennBackend) -> None:
    assert backend.write("/tmp/glob/a.py", "first").error is None
    assert backend.write("/tmp/glob/a.py", "second").error is None
    assert backend.write("/tmp/glob/deep/.b.py", "").error is None
    assert backend.sandbox.files.read("/tmp/glob/a.py") == "second"

    def found(pattern: str) -> list[str]:
        return [match["path"] for match in backend.glob(pattern, "/tmp/glob").matches or []]

    assert found("*.py") == ["/tmp/glob/a.py"]
    assert found("[a-c].p?") == ["/tmp/glob/a.py"]
    assert found(".*.py") == ["/tmp/glob/deep/.b.py"]
    assert found("deep") == []
