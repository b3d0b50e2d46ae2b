"""The sandboxes of `e2b_code_interpreter` are those of `e2b`, with its own default template."""

from __future__ import annotations

import asyncio

import e2b_code_interpreter
from e2b_code_interpreter import AsyncSandbox, Sandbox

TEMPLATE = "base"


def use() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=600)
    try:
        assert isinstance(sandbox, e2b_code_interpreter.Sandbox)
        assert sandbox.commands.run("echo $((6 * 7))").stdout == "42\n"
        sandbox.files.write("a.txt", "content")
        again = sandbox.connect()
        assert again.files.read("a.txt") == "content"
        sandbox.pause() if hasattr(sandbox, "pause") else sandbox.beta_pause()
        sandbox.connect()
        assert sandbox.files.read("a.txt") == "content"
    finally:
        assert sandbox.kill()
    assert not sandbox.is_running()


async def use_async() -> None:
    sandbox = await AsyncSandbox.create(TEMPLATE, timeout=600)
    try:
        assert (await sandbox.commands.run("echo $((6 * 7))")).stdout == "42\n"
    finally:
        assert await sandbox.kill()


use()
asyncio.run(use_async())
