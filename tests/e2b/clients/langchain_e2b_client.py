"""LangChain's Deep Agents get files and commands from a sandbox."""

from __future__ import annotations

import asyncio

import e2b
from langchain_e2b import AsyncE2BSandbox, E2BSandbox


def use(sandbox: E2BSandbox) -> None:
    done = sandbox.execute("echo out; echo err >&2; exit 3")
    assert (done.exit_code, "out" in done.output, "err" in done.output) == (3, True, True), done
    assert sandbox.execute("sleep 30", timeout=1).exit_code == 124
    assert sandbox.upload_files([("/home/user/p/a.txt", b"one\ntwo\n")])[0].error is None
    assert sandbox.download_files(["/home/user/p/a.txt"])[0].content == b"one\ntwo\n"
    assert sandbox.download_files(["/home/user/missing"])[0].error == "file_not_found"
    assert sandbox.download_files(["/home/user/p"])[0].error == "is_directory"
    assert sandbox.write("/home/user/p/b.txt", "three\n").error is None
    assert sandbox.edit("/home/user/p/b.txt", "three", "four").occurrences == 1
    assert "four" in sandbox.read("/home/user/p/b.txt").file_data["content"]
    assert [match["path"] for match in sandbox.grep("two", "/home/user/p").matches] == ["/home/user/p/a.txt"]
    assert len(sandbox.ls("/home/user/p").entries) == 2
    assert len(sandbox.glob("*.txt", "/home/user/p").matches) == 2


async def use_async(sandbox: AsyncE2BSandbox) -> None:
    assert (await sandbox.aexecute("echo $((6 * 7))")).output.strip() == "42"
    assert (await sandbox.awrite("/home/user/c.txt", "five\n")).error is None
    assert (await sandbox.aedit("/home/user/c.txt", "five", "six")).occurrences == 1
    assert (await sandbox.adownload_files(["/home/user/c.txt"]))[0].content == b"six\n"


async def main_async(sandbox_id: str) -> None:
    await use_async(AsyncE2BSandbox(sandbox=await e2b.AsyncSandbox.connect(sandbox_id)))


sandbox = e2b.Sandbox.create(timeout=900)
try:
    use(E2BSandbox(sandbox=sandbox))
    asyncio.run(main_async(sandbox.sandbox_id))
finally:
    sandbox.kill()
