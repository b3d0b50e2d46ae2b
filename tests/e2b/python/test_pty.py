"""`pty`."""

from __future__ import annotations

from typing import Any

import e2b
import pytest
from conftest import Sdk, covers, go, stream_input, until


class Terminal:
    """Reads what a terminal shows, in either face."""

    def __init__(self, sdk: Sdk, box: Any) -> None:
        self.sdk, self.box, self.shown = sdk, box, bytearray()

    async def open(self, size: Any, **options: Any) -> Terminal:
        if self.sdk.is_async:
            options["on_data"] = self.shown.extend
        self.handle = await go(self.box.pty.create(size, **options))
        return self

    async def connect(self, pid: int) -> Terminal:
        options = {"on_data": self.shown.extend} if self.sdk.is_async else {}
        self.handle = await go(self.box.pty.connect(pid, **options))
        return self

    async def send(self, text: str) -> None:
        await go(self.box.pty.send_stdin(self.handle.pid, text.encode()))

    async def end(self) -> str:
        """Waits for the end of the shell."""
        if self.sdk.is_async:
            await self.handle.wait()
        else:
            self.handle.wait(on_pty=self.shown.extend)
        return self.shown.decode()


SIZE = e2b.PtySize(rows=24, cols=80)


@covers("pty.create")
async def test_terminal_runs_login_shell(sdk: Sdk, box: Any) -> None:
    terminal = await Terminal(sdk, box).open(SIZE, envs={"MARK": "m1"})
    await terminal.send('echo "<$TERM $LANG $MARK $PWD $(whoami) $(stty size)>"; tty; exit\n')
    shown = await terminal.end()
    assert "<xterm-256color C.UTF-8 m1 /home/user user 24 80>" in shown
    assert "/dev/pts/" in shown


@covers("pty.create(user)")
async def test_terminal_of_root_in_directory(sdk: Sdk, box: Any) -> None:
    terminal = await Terminal(sdk, box).open(SIZE, user="root", cwd="/tmp")
    await terminal.send('echo "<$(whoami) $PWD>"; exit\n')
    assert "<root /tmp>" in await terminal.end()


@covers("pty.resize")
async def test_resize_is_seen_in_terminal(sdk: Sdk, box: Any) -> None:
    terminal = await Terminal(sdk, box).open(SIZE)
    await go(box.pty.resize(terminal.handle.pid, e2b.PtySize(rows=50, cols=132)))
    await terminal.send('echo "<$(stty size)>"; exit\n')
    assert "<50 132>" in await terminal.end()


@covers("pty.send_stdin")
async def test_control_c_interrupts_command(sdk: Sdk, box: Any) -> None:
    terminal = await Terminal(sdk, box).open(SIZE)
    await terminal.send("sleep 4321\n")

    async def is_asleep() -> bool:
        return await sdk.output(box, "pgrep -fx 'sleep 4321' || echo no") != "no"

    async def is_awake() -> bool:
        return not await is_asleep()

    await until(is_asleep, "the start of the command")
    await terminal.send("\x03")
    await until(is_awake, "the end of the command")
    await terminal.send('echo "<$((6 * 7))>"; exit 0\n')
    assert "<42>" in await terminal.end()


@covers("pty.kill")
async def test_killed_terminal_is_gone(sdk: Sdk, box: Any) -> None:
    terminal = await Terminal(sdk, box).open(SIZE)
    assert await go(box.pty.kill(terminal.handle.pid)) is True
    with pytest.raises(e2b.CommandExitException):
        await terminal.end()
    assert await go(box.pty.kill(terminal.handle.pid)) is False


@covers("pty.connect")
async def test_terminal_is_found_again(sdk: Sdk, box: Any) -> None:
    first = await Terminal(sdk, box).open(SIZE)
    await first.send("KEPT=yes\n")
    await go(first.handle.disconnect())
    second = await Terminal(sdk, box).connect(first.handle.pid)
    await second.send('echo "<$KEPT>"; exit\n')
    assert "<yes>" in await second.end()


@covers("pty.stream_input")
async def test_terminal_takes_streamed_input(sdk: Sdk, box: Any) -> None:
    terminal = await Terminal(sdk, box).open(SIZE)
    lines = ['echo "<$((20', ' + 3))>"\n', "exit\n"]
    await stream_input(sdk, box.pty, terminal.handle.pid, lines)
    assert "<23>" in await terminal.end()
