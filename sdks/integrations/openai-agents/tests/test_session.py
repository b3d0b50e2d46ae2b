"""What a session of the Agents SDK has to do, one call after the other.

The SDK has no tests for clients of others; this is what its own clients are tested for.
"""

from __future__ import annotations

import asyncio
import io
import pathlib
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from agents.sandbox import Manifest
from agents.sandbox.entries import Dir, File
from agents.sandbox.errors import (
    ExecTimeoutError,
    ExposedPortUnavailableError,
    InvalidManifestPathError,
    PtySessionNotFoundError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
)
from agents.sandbox.session import SandboxSession
from agents.sandbox.snapshot import LocalSnapshot
from wrenn_openai_agents import WrennSandboxClient, WrennSandboxClientOptions
from wrenn_sandbox import AsyncSandbox

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]

PATH = pathlib.Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session() -> AsyncIterator[SandboxSession]:
    client = WrennSandboxClient()
    manifest = Manifest(entries={"a.txt": File(content=b"first\nsecond\n"), "sub": Dir()})
    options = WrennSandboxClientOptions(exposed_ports=(8123,), labels={"suite": "openai-agents"})
    session = await client.create(manifest=manifest, options=options)
    async with session:
        yield session


async def test_exec_has_streams_and_code(session: SandboxSession) -> None:
    result = await session.exec("echo out; echo err >&2; exit 4")
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 4)
    assert (await session.exec("no-such-program", shell=False)).exit_code == 127
    assert (await session.exec("id", "-un", shell=False, user="root")).stdout == b"root\n"
    listed = await session.exec("printf", "%s|", "a b", "c", shell=False)
    assert listed.stdout == b"a b|c|"


async def test_exec_beyond_timeout_raises(session: SandboxSession) -> None:
    with pytest.raises(ExecTimeoutError):
        await session.exec("sleep 4998", timeout=2)
    assert (await session.exec("pgrep", "-fx", "sleep 4998", shell=False)).exit_code == 1


async def test_cancelled_exec_ends_command(session: SandboxSession) -> None:
    task = asyncio.ensure_future(session.exec("sleep", "4997", shell=False))
    while not (await session.exec("pgrep", "-fx", "sleep 4997", shell=False)).ok():
        assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(30):
        while (await session.exec("pgrep", "-fx", "sleep 4997", shell=False)).ok():
            await asyncio.sleep(0.2)


async def test_files_are_written_and_read(session: SandboxSession) -> None:
    data = bytes(range(256)) * 4096
    await session.write(PATH("sub/data.bin"), io.BytesIO(data))
    with await session.read(PATH("sub/data.bin")) as file:
        assert file.read() == data
    assert await session.read_bounded(PATH("sub/data.bin"), max_bytes=300) == data[:300]
    entries = {PATH(entry.path).name for entry in await session.ls("sub")}
    assert "data.bin" in entries
    await session.rm("sub/data.bin")
    with pytest.raises(WorkspaceReadNotFoundError):
        await session.read(PATH("sub/data.bin"))
    with pytest.raises(WorkspaceArchiveReadError):
        await session.read(PATH("sub"))
    with pytest.raises(WorkspaceArchiveWriteError):
        await session.write(PATH("sub"), io.BytesIO(b""))


async def test_paths_outside_of_workspace_are_refused(session: SandboxSession) -> None:
    with pytest.raises(InvalidManifestPathError):
        await session.read(PATH("../etc/passwd"))
    with pytest.raises(InvalidManifestPathError):
        await session.write(PATH("/etc/x"), io.BytesIO(b""))
    await session.exec("ln -sf /etc/passwd link")
    with pytest.raises(InvalidManifestPathError):
        await session.read(PATH("link"))


async def test_patch_is_applied(session: SandboxSession) -> None:
    operations: list[dict[str, object]] = [
        {"type": "update_file", "path": "a.txt", "diff": "@@\n first\n-second\n+changed\n"},
        {"type": "create_file", "path": "new/b.txt", "diff": "+made\n"},
    ]
    await session.apply_patch([*operations])
    assert (await session.exec("cat a.txt new/b.txt")).stdout.split() == [
        b"first",
        b"changed",
        b"made",
    ]


async def test_terminal_goes_on_over_calls(session: SandboxSession) -> None:
    begun = await session.pty_exec_start("cat", shell=False, tty=True, yield_time_s=0.5)
    assert begun.process_id is not None
    output = b""
    update = await session.pty_write_stdin(session_id=begun.process_id, chars="ping\n")
    output += update.output
    while output.count(b"ping") < 2:
        update = await session.pty_write_stdin(session_id=begun.process_id, chars="")
        output += update.output
    ended = await session.pty_write_stdin(
        session_id=begun.process_id, chars="\x04", yield_time_s=30
    )
    assert (ended.process_id, ended.exit_code) == (None, 0)
    with pytest.raises(PtySessionNotFoundError):
        await session.pty_write_stdin(session_id=begun.process_id, chars="")


async def test_background_command_is_followed_and_ended(session: SandboxSession) -> None:
    short = await session.pty_exec_start("echo a; echo b >&2; exit 5", yield_time_s=30)
    assert (short.process_id, short.exit_code) == (None, 5)
    assert sorted(short.output.split()) == [b"a", b"b"]
    long = await session.pty_exec_start("echo on; exec sleep 4996", yield_time_s=5)
    assert long.process_id is not None
    await session.pty_terminate_all()
    async with asyncio.timeout(30):
        while (await session.exec("pgrep", "-fx", "sleep 4996", shell=False)).ok():
            await asyncio.sleep(0.2)


async def test_exposed_port_answers(session: SandboxSession) -> None:
    await session.exec("mkdir -p web; echo served > web/index.html")
    serve = "exec python3 -m http.server 8123 --directory web"
    await session.pty_exec_start(serve, yield_time_s=0.5)
    url = (await session.resolve_exposed_port(8123)).url_for("http")
    # As programs that keep cookies get it: the signed address becomes one.
    words = ["curl", "-fsSL", "--max-time", "10", "-b", "", url]
    deadline = time.monotonic() + 120
    while True:
        ran = await asyncio.to_thread(subprocess.run, words, capture_output=True, check=False)
        if ran.stdout == b"served\n":
            break
        assert time.monotonic() < deadline, (url, ran)
    with pytest.raises(ExposedPortUnavailableError):
        await session.resolve_exposed_port(8124)


async def test_workspace_moves_to_another_sandbox(
    session: SandboxSession, tmp_path: pathlib.Path
) -> None:
    client = WrennSandboxClient()
    snapshot = LocalSnapshot(id="one", base_path=tmp_path)
    first = await client.create(snapshot=snapshot, options=WrennSandboxClientOptions())
    async with first:
        await first.exec("mkdir -p deep/er; echo kept > deep/er/kept.txt; chmod 700 deep")
    payload = client.serialize_session_state(first.state)
    state = client.deserialize_session_state(payload)
    second = await client.resume(state)
    async with second:
        kept = await second.exec("cat deep/er/kept.txt; stat -c %a deep")
        assert kept.stdout == b"kept\n700\n"


async def test_unsafe_archive_is_refused(session: SandboxSession) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        member = tarfile.TarInfo("../out.txt")
        archive.addfile(member)
    raw.seek(0)
    with pytest.raises(WorkspaceArchiveWriteError):
        await session.hydrate_workspace(raw)


async def test_deleted_sandbox_does_not_run(session: SandboxSession) -> None:
    client = WrennSandboxClient()
    other = await client.create(options=WrennSandboxClientOptions())
    assert await other.running()
    await client.delete(other)
    assert not await other.running()
    listed = [info.id async for info in AsyncSandbox.list(labels={"suite": "openai-agents"})]
    assert len(listed) == 1
