"""The sandbox client of OpenAI's agents works, pauses and finds its workspace again."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from agents.extensions.sandbox.e2b import E2BSandboxClient, E2BSandboxClientOptions
from agents.sandbox.manifest import Manifest
from agents.sandbox.session.sandbox_session import SandboxSession


async def use(session: SandboxSession) -> None:
    result = await session.exec("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 3), vars(result)
    assert (await session.exec("echo $FROM")).stdout == b"options\n"
    await session.write(Path("notes/a.txt"), io.BytesIO(b"written"))
    assert (await session.read(Path("notes/a.txt"))).read() == b"written"
    assert await session.running()
    terminal = await session.pty_exec_start("cat", tty=True, yield_time_s=0.5)
    update = await session.pty_write_stdin(session_id=terminal.process_id, chars="typed\n", yield_time_s=1)
    assert b"typed" in update.output, update
    await session.pty_terminate_all()
    endpoint = await session.resolve_exposed_port(3000)
    assert endpoint.host.startswith("3000-"), endpoint


async def main() -> None:
    client = E2BSandboxClient()
    options = E2BSandboxClientOptions(
        sandbox_type="e2b", timeout=900, envs={"FROM": "options"}, pause_on_exit=True, exposed_ports=(3000,)
    )
    # Its default is a directory at the root, which the user could not make himself.
    assert Manifest().root == "/workspace"
    session = await client.create(manifest=Manifest(), options=options)
    try:
        await session.start()
        await use(session)
        first_id = session.state.sandbox_id
        archive = (await session.persist_workspace()).read()
        await session.stop()
        await session.shutdown()

        session = await client.resume(session.state)
        assert session.state.sandbox_id == first_id
        await session.start()
        assert (await session.read(Path("notes/a.txt"))).read() == b"written"
        await session.exec("rm -r notes")
        await session.hydrate_workspace(io.BytesIO(archive))
        assert (await session.read(Path("notes/a.txt"))).read() == b"written"
    finally:
        session.state.pause_on_exit = False
        await session.shutdown()


asyncio.run(main())
