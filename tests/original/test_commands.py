"""`commands`, `pty` and `run_code`."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import wrenn
from conftest import Face, each, go, until, within

SERVER = pathlib.Path(__file__).with_name("kernel_server.py")


async def test_command_runs_to_end(box: Any, place: str) -> None:
    result = await go(
        box.commands.run('echo "$A $PWD $(whoami)"; echo e >&2; exit 3', envs={"A": "x y"}, cwd=place, tag="unused")
    )
    assert (result.stdout, result.stderr, result.exit_code) == (f"x y {place} root\n", "e\n", 3)
    assert result.duration_ms is not None
    binary = await go(box.commands.run("printf '\\377a'"))
    assert binary.stdout == "\ufffda"


async def test_background_command_is_followed(face: Face, box: Any) -> None:
    tag = "follow-async" if face.is_async else "follow-sync"
    script = "echo one; while [ ! -e /tmp/go-$T ]; do sleep 0.05; done; echo two >&2; exit 4"
    handle = await go(box.commands.run(script, background=True, tag=tag, envs={"T": tag}))
    assert handle.tag == tag and handle.pid > 0
    listed = {entry.tag: entry for entry in await go(box.commands.list())}
    assert (listed[tag].pid, listed[tag].cmd) == (handle.pid, "/bin/sh")
    events = []
    async for event in each(box.commands.connect(handle.pid)):
        events.append(event)
        if event.type == "stdout":
            await go(box.files.write(f"/tmp/go-{tag}", ""))
    assert [event.type for event in events] == ["start", "stdout", "stderr", "exit"]
    assert (events[0].pid, events[1].data, events[2].data) == (handle.pid, "one\n", "two\n")
    assert events[3].exit_code == 4


async def test_background_command_is_killed(box: Any) -> None:
    handle = await go(box.commands.run("sleep 1000", background=True))
    await go(box.commands.kill(handle.pid))

    async def is_gone() -> bool:
        return handle.pid not in [entry.pid for entry in await go(box.commands.list())]

    await until(is_gone, "its end")
    with pytest.raises(wrenn.WrennNotFoundError):
        await go(box.commands.kill(4_000_000))


async def test_command_is_streamed(box: Any) -> None:
    async def run(*arguments: Any, **options: Any) -> list[Any]:
        return [event async for event in each(box.commands.stream(*arguments, **options))]

    events = await run("echo out; echo err >&2; exit 2")
    assert events[0].type == "start" and events[0].pid > 0
    texts = {event.type: event.data for event in events[1:-1]}
    assert texts == {"stdout": "out\n", "stderr": "err\n"}
    assert (events[-1].type, events[-1].exit_code) == ("exit", 2)
    events = await run("/bin/echo", args=["a b", "c"])
    assert events[1].data == "a b c\n"
    events = await run("no-such-program", args=["x"])
    assert events[-1].type == "error" and "no-such-program" in events[-1].data


async def read_until(terminal: Any, wanted: bytes) -> bytes:
    shown = b""
    async for event in each(terminal):
        if event.type == "output":
            shown += event.data
        if wanted in shown or event.type == "exit":
            return shown
    return shown


async def test_terminal_is_opened_and_left(box: Any, place: str) -> None:
    async with within(box.pty(cmd="/bin/bash", cols=100, rows=30, cwd=place, envs={"MARK": "m1"})) as terminal:
        await go(terminal.write(b'echo "<$MARK $PWD $(stty size) $(tty)>"\n'))
        shown = await read_until(terminal, b"/dev/pts/")
        assert f"<m1 {place} 30 100 /dev/pts/".encode() in shown
        assert terminal.pid > 0 and terminal.tag
        await go(terminal.resize(132, 50))
        await go(terminal.write(b"printf 'size:%s;' \"$(stty size)\"\n"))
        assert b"size:50 132;" in await read_until(terminal, b"size:50 132;")
        tag = terminal.tag
    # The shell outlives the connection.
    async with within(box.pty_connect(tag)) as terminal:
        await go(terminal.write(b"printf 'again:%s;' \"$MARK\"\n"))
        assert b"again:m1;" in await read_until(terminal, b"again:m1;")
        assert terminal.tag == tag
        await go(terminal.kill())
        events = [event async for event in each(terminal)]
        assert (events[-1].type, events[-1].exit_code) == ("exit", 137)


async def test_terminal_that_is_not_there(box: Any) -> None:
    async with within(box.pty_connect("pty-ffffffff")) as terminal:
        events = [event async for event in each(terminal)]
    assert events[-1].type == "error" and events[-1].fatal


async def test_bytes_of_terminal_stay_bytes(box: Any) -> None:
    async with within(box.pty(cmd="/bin/sh", args=["-c", "stty raw -echo; printf 'ready;'; cat"])) as terminal:
        await read_until(terminal, b"ready;")
        sent = bytes(range(256)) * 64
        await go(terminal.write(sent))
        shown = b""
        async for event in each(terminal):
            shown += event.data if event.type == "output" else b""
            if len(shown) >= len(sent):
                break
        assert shown == sent
        await go(terminal.kill())


async def test_code_runs_in_kernel_behind_port(face: Face) -> None:
    """The template is one with a Jupyter server; here a small server of that protocol stands for it."""
    async with within(await go(face.CodeCapsule.create(template="minimal", kernel="python3", wait=True))) as capsule:
        await go(capsule.files.write("/srv/kernel_server.py", SERVER.read_text()))
        await go(capsule.commands.run("python3 /srv/kernel_server.py", background=True))
        heard: list[str] = []
        execution = await go(capsule.run_code("print('hi')\n6 * 7", on_stdout=heard.append))
        assert (execution.text, "".join(execution.logs.stdout), execution.error) == ("42", "hi\n", None)
        assert "".join(heard) == "hi\n" and not execution.timed_out
        again = await go(capsule.run_code("1 / 0"))
        assert again.error.name == "ZeroDivisionError"
