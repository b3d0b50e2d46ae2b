"""`commands`, and the handles that it gives."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import e2b
import httpcore
import pytest
from conftest import VERSION, Sdk, covers, go, stream_input, until
from packaging.version import Version


def until_exists(path: str) -> str:
    """Returns a command that waits for a file."""
    return f"until [ -e {path} ]; do sleep 0.05; done"


@covers("commands.run")
async def test_run_returns_output_and_code(sdk: Sdk, box: Any) -> None:
    result = await go(box.commands.run("echo out; echo err >&2"))
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    assert not result.error


@covers("commands.run")
async def test_run_with_other_code_raises(sdk: Sdk, box: Any) -> None:
    with pytest.raises(e2b.CommandExitException) as caught:
        await go(box.commands.run("echo out; echo err >&2; exit 7"))
    error = caught.value
    assert (error.stdout, error.stderr, error.exit_code) == ("out\n", "err\n", 7)
    assert "exit status 7" in error.error


@covers("commands.run")
async def test_run_uses_login_shell_of_user(sdk: Sdk, box: Any) -> None:
    shell = "echo $USER:$HOME:$PWD; shopt -q login_shell && echo login; echo $E2B_SANDBOX:$E2B_SANDBOX_ID"
    lines = (await sdk.output(box, shell)).splitlines()
    assert lines == ["user:/home/user:/home/user", "login", f"true:{box.sandbox_id}"]


@covers("commands.run")
async def test_run_passes_large_and_odd_output(sdk: Sdk, box: Any) -> None:
    large = await go(box.commands.run("head -c 3000000 /dev/zero | tr '\\0' x"))
    assert large.stdout == "x" * 3_000_000
    odd = await go(box.commands.run("printf 'a\\xffb'"))
    assert odd.stdout == "a\ufffdb"
    if Version("2.31") <= VERSION:
        parted = await go(box.commands.run("printf '\\xc3'; sleep 0.2; printf '\\xa9'"))
        assert parted.stdout == "é"


@covers("commands.run(envs)")
async def test_run_envs_hold_for_one_command(sdk: Sdk, box: Any) -> None:
    envs = {"GREETING": "héllo wörld", "EMPTY": ""}
    assert await sdk.output(box, 'echo "$GREETING|${EMPTY-unset}"', envs=envs) == "héllo wörld|"
    assert await sdk.output(box, 'echo "${GREETING-unset}"') == "unset"


@covers("commands.run(user)")
async def test_run_user_is_chosen(sdk: Sdk, box: Any) -> None:
    assert await sdk.output(box, "whoami; echo $HOME", user="root") == "root\n/root"
    with pytest.raises(e2b.AuthenticationException):
        await go(box.commands.run("true", user="nobody-has-this-name"))


@covers("commands.run(cwd)")
async def test_run_cwd_is_chosen(sdk: Sdk, box: Any) -> None:
    assert await sdk.output(box, "pwd", cwd="/tmp") == "/tmp"
    with pytest.raises(e2b.InvalidArgumentException):
        await go(box.commands.run("true", cwd="/does/not/exist"))


@covers("commands.run(on_stdout)")
async def test_run_callbacks_get_output_as_it_comes(sdk: Sdk, box: Any) -> None:
    seen: list[tuple[str, str]] = []
    result = await go(
        box.commands.run(
            "echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three",
            on_stdout=lambda data: seen.append(("out", data)),
            on_stderr=lambda data: seen.append(("err", data)),
        )
    )
    assert seen == [("out", "one\n"), ("err", "two\n"), ("out", "three\n")]
    assert result.stdout == "one\nthree\n"


@covers("commands.run(timeout)")
async def test_run_beyond_timeout_is_killed(sdk: Sdk, box: Any) -> None:
    # Old clients give up waiting at the same moment, and may be first.
    expected = (e2b.TimeoutException,) if Version("2.31") <= VERSION else (e2b.TimeoutException, httpcore.ReadTimeout)
    with pytest.raises(expected):
        await go(box.commands.run("sleep 98765", timeout=1))
    await until(lambda: _is_gone(sdk, box, "sleep 98765"), "the end of the command")


@covers("commands.run(timeout)")
async def test_run_timeout_holds_without_client(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, "sleep 98764", timeout=1)
    await go(handle.disconnect())
    await until(lambda: _is_gone(sdk, box, "sleep 98764"), "the end of the command")


@covers("commands.run(timeout)")
async def test_run_timeout_zero_is_none(sdk: Sdk, box: Any) -> None:
    assert (await go(box.commands.run("sleep 0.2; echo done", timeout=0))).stdout == "done\n"


async def _is_gone(sdk: Sdk, box: Any, command: str) -> bool:
    return await sdk.output(box, f"pgrep -fx '{command}' || echo gone") == "gone"


@covers("commands.run(background)")
async def test_background_command_has_pid_of_guest(sdk: Sdk, box: Any, place: str) -> None:
    handle = await sdk.start(box, f"echo begun; {until_exists(f'{place}/go')}; echo ended")
    assert await sdk.output(box, f"kill -0 {handle.pid} && echo alive; touch {place}/go") == "alive"
    result = await go(handle.wait())
    assert (result.stdout, result.exit_code) == ("begun\nended\n", 0)


@covers("commands.run(stdin)", needs=("commands.close_stdin",))
async def test_stdin_reaches_command(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, "cat", stdin=True)
    await go(box.commands.send_stdin(handle.pid, "first "))
    await go(box.commands.send_stdin(handle.pid, "sécond\n"))
    await go(box.commands.close_stdin(handle.pid))
    assert (await go(handle.wait())).stdout == "first sécond\n"


@covers("commands.run(stdin)")
async def test_command_without_stdin_sees_end(sdk: Sdk, box: Any) -> None:
    assert await sdk.output(box, "cat; echo end") == "end"


@covers("commands.send_stdin")
async def test_stdin_line_ends_reader(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, 'read line; echo "got $line"', stdin=True)
    await go(box.commands.send_stdin(handle.pid, "a line\n"))
    assert (await go(handle.wait())).stdout == "got a line\n"


@covers("commands.send_stdin")
async def test_stdin_of_unknown_command_raises(sdk: Sdk, box: Any) -> None:
    with pytest.raises(e2b.NotFoundException):
        await go(box.commands.send_stdin(999_999, "x"))


@covers("commands.close_stdin")
async def test_stdin_after_close_is_refused(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, "cat; sleep 30", stdin=True)
    await go(box.commands.close_stdin(handle.pid))
    await go(box.commands.close_stdin(handle.pid))
    with pytest.raises(e2b.SandboxException):
        await go(box.commands.send_stdin(handle.pid, "late"))
    assert await go(handle.kill())


@covers("handle.send_stdin")
async def test_handle_sends_and_closes_stdin(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, "wc -c", stdin=True)
    await go(handle.send_stdin("12345"))
    await go(handle.send_stdin(b"678"))
    await go(handle.close_stdin())
    assert (await go(handle.wait())).stdout == "8\n"


@covers("commands.stream_input")
async def test_stream_input_is_delivered_whole(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, "head -c 200000 | sha256sum", stdin=True)
    chunks = [bytes([number]) * 50_000 for number in range(4)]
    await stream_input(sdk, box.commands, handle.pid, chunks)
    assert (await go(handle.wait())).stdout.split()[0] == hashlib.sha256(b"".join(chunks)).hexdigest()


@covers("commands.list")
async def test_list_has_running_commands_only(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, "sleep 45", envs={"MARK": "1"}, cwd="/tmp")
    found = [process for process in await go(box.commands.list()) if process.pid == handle.pid]
    assert len(found) == 1
    process = found[0]
    assert (process.cmd, process.args[:2], process.args[2]) == ("/bin/bash", ["-l", "-c"], "sleep 45")
    assert process.envs.get("MARK") == "1"
    assert process.cwd == "/tmp"
    await go(handle.kill())
    await until(lambda: _is_unlisted(box, handle.pid), "the removal from the list")


async def _is_unlisted(box: Any, pid: int) -> bool:
    return pid not in [process.pid for process in await go(box.commands.list())]


@covers("commands.kill")
async def test_killed_command_is_gone(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, "sleep 46")
    assert await go(box.commands.kill(handle.pid)) is True
    with pytest.raises(e2b.CommandExitException) as caught:
        await go(handle.wait())
    assert caught.value.exit_code != 0
    assert "kill" in caught.value.error
    assert await sdk.output(box, f"kill -0 {handle.pid} 2>/dev/null || echo gone") == "gone"
    assert await go(box.commands.kill(handle.pid)) is False


@covers("handle.kill")
async def test_handle_kills_command(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, "sleep 47")
    assert await go(handle.kill()) is True
    with pytest.raises(e2b.CommandExitException):
        await go(handle.wait())


@covers("commands.connect")
async def test_connect_gets_output_and_end(sdk: Sdk, box: Any, place: str) -> None:
    first = await sdk.start(box, f"{until_exists(f'{place}/go')}; echo later; exit 3")
    second = await go(box.commands.connect(first.pid))
    assert second.pid == first.pid
    await go(box.files.write(f"{place}/go", ""))
    with pytest.raises(e2b.CommandExitException) as caught:
        await go(second.wait())
    assert (caught.value.stdout, caught.value.exit_code) == ("later\n", 3)


@covers("commands.connect")
async def test_connect_to_unknown_command_raises(sdk: Sdk, box: Any) -> None:
    with pytest.raises(e2b.NotFoundException):
        await go(box.commands.connect(999_999))


@covers("handle.disconnect")
async def test_disconnected_command_goes_on(sdk: Sdk, box: Any) -> None:
    handle = await sdk.start(box, 'read line; echo "got $line"', stdin=True)
    await go(handle.disconnect())
    again = await go(box.commands.connect(handle.pid))
    await go(box.commands.send_stdin(handle.pid, "after\n"))
    assert (await go(again.wait())).stdout == "got after\n"


@covers("handle.wait")
async def test_handles_beside_each_other_keep_apart(sdk: Sdk, box: Any) -> None:
    handles = [await sdk.start(box, f"sleep 0.2; echo {number}", timeout=0) for number in range(12)]
    if sdk.is_async:
        results = await asyncio.gather(*(handle.wait() for handle in handles))
    else:
        results = [handle.wait() for handle in handles]
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(12)]


@covers("commands.run(retain_output)")
async def test_output_that_is_not_retained_is_passed_on(sdk: Sdk, box: Any) -> None:
    seen: list[str] = []
    result = await go(box.commands.run("echo passed", retain_output=False, on_stdout=seen.append))
    assert (result.stdout, seen) == (None, ["passed\n"])
