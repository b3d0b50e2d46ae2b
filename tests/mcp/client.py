"""Uses the tools as the official Python client does, against the server of WRENN_API_URL.

client.py WRENN, the program for `wrenn mcp`. A line for each test, as `cargo test` has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

WRENN = sys.argv[1]
URL = os.environ["WRENN_API_URL"]
KEY = os.environ["WRENN_API_KEY"]
PATIENCE = 90
"""Seconds that a test may take."""
MAX_TEXT = 32 * 1024
"""As in crates/mcp/src/text.rs."""

TESTS: list[Callable[[], Awaitable[None]]] = []


def test(function: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    TESTS.append(function)
    return function


def api(method: str, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"x-api-key": KEY, "content-type": "application/json"}
    request = urllib.request.Request(URL + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = answer.read()
    return json.loads(content) if content else None


def exists(sandbox: str) -> bool:
    try:
        return api("GET", f"/v1/sandboxes/{sandbox}")["status"] not in ("stopped", "error")
    except urllib.error.HTTPError as error:
        assert error.code == 404, error
        return False


async def until_gone(sandbox: str) -> None:
    end = time.monotonic() + 30
    while exists(sandbox):
        assert time.monotonic() < end, f"{sandbox} is still there"
        await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def over_stdio(*arguments: str, mode: str = "auto") -> AsyncIterator[Client]:
    environment = {"WRENN_API_URL": URL, "WRENN_API_KEY": KEY, "PATH": os.environ["PATH"]}
    program = StdioServerParameters(command=WRENN, args=["mcp", *arguments], env=environment)
    async with Client(program, mode=mode) as client:
        yield client


@contextlib.asynccontextmanager
async def over_http(mode: str, key: str = KEY) -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        async with Client(streamable_http_client(f"{URL}/mcp", http_client=http), mode=mode) as client:
            yield client


def text(result: Any) -> str:
    return "\n".join(part.text for part in result.content if part.type == "text")


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, f"{tool}: {text(result)}"
    return result


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, f"{tool} was not refused: {text(result)}"
    return text(result)


async def create(client: Client, **arguments: Any) -> str:
    return (await call(client, "create_sandbox", **arguments)).structured_content["id"]


async def output(client: Client, command: str, **arguments: Any) -> str:
    result = await call(client, "run_command", command=command, **arguments)
    shown = result.structured_content
    assert shown["exit_code"] == 0, text(result)
    return shown["stdout"]


@test
async def session_does_a_models_work() -> None:
    async with over_stdio() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert len(tools) > 20 and all(tool.description for tool in tools.values())
        assert tools["read_file"].annotations.read_only_hint
        assert "create_sandbox" in await refused(client, "run_command", command="true")
        sandbox = await create(client, env={"GREETING": "hello"})

        assert await output(client, "echo $GREETING; cat", stdin="from outside") == "hello\nfrom outside"
        failed = await call(client, "run_command", command="echo oh >&2; exit 3", cwd="/tmp")
        assert failed.structured_content["exit_code"] == 3 and "oh" in text(failed)
        slow = await call(client, "run_command", command="sleep 60", timeout_sec=1)
        assert slow.structured_content["timed_out"] and "start_command" in text(slow)

        await call(client, "write_file", path="/root/a/tool.sh", content="#!/bin/sh\necho one\n", mode="755", user="root")
        assert await output(client, "/root/a/tool.sh", user="root") == "one\n"
        edit = {"path": "/root/a/tool.sh", "new_text": "two", "user": "root"}
        assert "not in the file" in await refused(client, "edit_file", old_text="three", **edit)
        await call(client, "edit_file", old_text="one", **edit)
        lines = [f"line {number}" for number in range(8)]
        await call(client, "write_file", path="/tmp/lines", content="\n".join(lines))
        edits = [call(client, "edit_file", path="/tmp/lines", old_text=line, new_text=f"new {line}") for line in lines]
        await asyncio.gather(*edits)
        whole = text(await call(client, "read_file", path="/tmp/lines"))
        assert whole == "\n".join(f"new {line}" for line in lines), whole
        assert await output(client, "/root/a/tool.sh", user="root") == "two\n"
        assert text(await call(client, "read_file", path="/root/a/tool.sh", user="root", line=2)) == "echo two\n"
        found = text(await call(client, "search_files", path="/root/a", content="ec.o", user="root"))
        assert found == "/root/a/tool.sh:2:echo two\n", found
        listed = (await call(client, "list_files", path="/root/a", user="root")).structured_content["entries"]
        assert [(entry["path"], entry["mode"]) for entry in listed] == [("/root/a/tool.sh", "755")]
        assert "/nowhere" in await refused(client, "read_file", path="/nowhere")

        resources = (await client.list_resources()).resources
        assert [resource.uri for resource in resources] == [f"sandbox-log://{sandbox}"]
        log = (await client.read_resource(f"sandbox-log://{sandbox}")).contents[0].text
        assert "envd" in log or "guest" in log, log
        issue = (await client.read_resource(f"sandbox://{sandbox}/etc/passwd")).contents[0].text
        assert issue.startswith("root:"), issue
    await until_gone(sandbox)


@test
async def long_output_is_bounded_and_reported() -> None:
    reports: list[tuple[float, str | None]] = []

    async def note(progress: float, _total: float | None, message: str | None) -> None:
        reports.append((progress, message))

    async with over_stdio() as client:
        await create(client)
        command = "echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; sleep 2; echo almost; sleep 2; echo last"
        result = await client.call_tool("run_command", {"command": command}, progress_callback=note)
        shown = text(result)
        assert len(shown) < MAX_TEXT + 2000, len(shown)
        assert "first\n" in shown and shown.endswith("last\n") and "bytes are left out" in shown
        times = [progress for progress, _ in reports]
        assert len(times) > 2 and times == sorted(set(times)), reports
        assert "almost" in [message for _, message in reports], reports
        whole = await client.call_tool("run_command", {"command": "seq 1 20000 >/tmp/long"})
        assert not whole.is_error
        page = text(await call(client, "read_file", path="/tmp/long"))
        assert page.endswith("1000\n\n[… more from line 1001 on …]"), page[-60:]
        page = text(await call(client, "read_file", path="/tmp/long", line=19999))
        assert page == "19999\n20000\n"


@test
async def cancelled_call_kills_command() -> None:
    async with over_stdio() as client:
        await create(client)
        running = asyncio.create_task(
            client.call_tool("run_command", {"command": "echo $$ >/tmp/pid; exec sleep 600"})
        )
        for _ in range(100):
            if await output(client, "cat /tmp/pid 2>/dev/null || true"):
                break
            await asyncio.sleep(0.1)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        gone = "p=$(cat /tmp/pid); for _ in $(seq 100); do [ -d /proc/$p ] || exit 0; sleep 0.1; done; exit 1"
        await output(client, gone)


@test
async def started_command_is_read_and_stopped() -> None:
    async with over_stdio() as client:
        await create(client)
        line = "for i in 1 2 3; do echo line $i; sleep 0.5; done; exec sleep 600"
        started = (await call(client, "start_command", command=line, name="job")).structured_content
        assert started["state"] == "running" and started["command"] == line, started
        seen, offset = "", 0
        for _ in range(20):
            part = await call(client, "read_output", command="job", offset=offset, wait_sec=5)
            offset = part.structured_content["next_offset"]
            seen += part.structured_content["output"]
            if "line 3" in seen:
                break
        assert seen == "line 1\nline 2\nline 3\n", seen
        again = await call(client, "read_output", command="job")
        assert again.content[0].text == again.structured_content["output"] == seen, again
        await call(client, "stop_command", command="job")
        for _ in range(50):
            ended = (await call(client, "read_output", command="job", offset=offset, wait_sec=1)).structured_content
            if ended["state"] == "exited":
                break
        assert ended["exit_code"] == 143, ended
        chatty = "while :; do echo x; sleep 0.1; done"
        await call(client, "start_command", command=chatty, name="chatty")
        begin = time.monotonic()
        await call(client, "read_output", command="chatty")
        assert time.monotonic() - begin < 30, "read_output waits for a command that keeps writing"
        await call(client, "stop_command", command="chatty", force=True)
        listed = (await call(client, "list_commands")).structured_content["commands"]
        assert [command["name"] for command in listed] == ["job", "chatty"]


@test
async def states_are_saved_and_gone_back_to() -> None:
    async with over_stdio() as client:
        sandbox = await create(client, memory_mb=256)
        await output(client, "echo good >/tmp/state")
        await call(client, "create_checkpoint", name="good")
        await output(client, "echo bad >/tmp/state")
        assert "nosuch" in await refused(client, "roll_back", checkpoint="nosuch")
        await call(client, "roll_back", checkpoint="good")
        assert await output(client, "cat /tmp/state") == "good\n"
        points = (await call(client, "list_checkpoints")).structured_content["checkpoints"]
        assert [point["name"] for point in points] == ["good"]

        forked = (await call(client, "fork_sandbox")).structured_content["sandboxes"]
        assert [child["deleted_at_end_of_session"] for child in forked] == [True]
        child = forked[0]["id"]
        assert "say which sandbox" in await refused(client, "run_command", command="true")
        assert await output(client, "cat /tmp/state", sandbox=child) == "good\n"
        assert api("GET", f"/v1/sandboxes/{child}")["ends_at"]

        served = "mkdir -p /srv/w; cd /srv/w; echo page >index.html; exec python3 -m http.server 8080 || exec busybox httpd -f -p 8080"
        await call(client, "start_command", command=served, sandbox=sandbox, name="web", user="root")
        link = (await call(client, "expose_port", port=8080, sandbox=sandbox)).structured_content["url"]
        assert link.startswith("http"), link

        await call(client, "create_template", name="from-mcp", sandbox=sandbox)
        copy = await create(client, template="from-mcp")
        assert await output(client, "cat /tmp/state", sandbox=copy) == "good\n"
        await call(client, "delete_sandbox", sandbox=copy)
        await until_gone(copy)
    await until_gone(sandbox)
    await until_gone(child)
    api("DELETE", "/v1/snapshots/from-mcp")


@test
async def sessions_own_their_sandboxes() -> None:
    mine = api("POST", "/v1/sandboxes", {"name": "mcp-own"})["id"]
    try:
        async with over_stdio() as client:
            assert "attach_sandbox" in await refused(client, "run_command", command="true", sandbox="mcp-own")
            kept = await create(client)
            await call(client, "keep_sandbox", sandbox=kept)
            assert "ends_at" not in api("GET", f"/v1/sandboxes/{kept}")
            await call(client, "attach_sandbox", sandbox="mcp-own")
            await output(client, "touch /tmp/seen", sandbox="mcp-own")
            temporary = await create(client)
            assert api("GET", f"/v1/sandboxes/{temporary}")["labels"] == {"mcp": "temporary"}
        await until_gone(temporary)
        assert exists(mine) and exists(kept)
        async with over_stdio("--sandbox", kept) as client:
            await output(client, "true")
            await call(client, "delete_sandbox")
        await until_gone(kept)
        async with over_stdio("--keep", mode="legacy") as client:
            kept = await create(client)
        assert exists(kept)
        api("DELETE", f"/v1/sandboxes/{kept}")
    finally:
        api("DELETE", f"/v1/sandboxes/{mine}")


@test
async def http_session_ends_with_its_client() -> None:
    async with over_http("legacy") as client:
        sandbox = await create(client)
        assert await output(client, "echo over http") == "over http\n"
        async with over_http("legacy") as other:
            assert "not a sandbox of this session" in await refused(
                other, "run_command", command="true", sandbox=sandbox
            )
    await until_gone(sandbox)


@test
async def http_without_sessions_names_sandboxes() -> None:
    async with over_http("auto") as client:
        assert client.protocol_version >= "2026-07-28", client.protocol_version
        sandbox = await create(client)
        listed = (await call(client, "list_sandboxes")).structured_content["sandboxes"]
        assert sandbox in [one["id"] for one in listed], listed
        assert "deleted_at_end_of_session" not in listed[0], listed
        assert "say which sandbox" in await refused(client, "run_command", command="true")
        assert await output(client, "echo stateless", sandbox=sandbox) == "stateless\n"
        assert api("GET", f"/v1/sandboxes/{sandbox}")["ends_at"]
        await call(client, "delete_sandbox", sandbox=sandbox)
    await until_gone(sandbox)


@test
async def http_needs_a_key() -> None:
    for headers in [{}, {"x-api-key": "wrn_" + "0" * 40}]:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
        headers = {**headers, "content-type": "application/json", "accept": "application/json, text/event-stream"}
        try:
            urllib.request.urlopen(urllib.request.Request(f"{URL}/mcp", body, headers), timeout=30)
            raise AssertionError("a request without a key was answered")
        except urllib.error.HTTPError as error:
            assert error.code == 401, error


def main() -> int:
    wanted = sys.argv[2:]
    failed = 0
    tests = [test for test in TESTS if not wanted or test.__name__ in wanted]
    for run in tests:
        try:
            asyncio.run(asyncio.wait_for(run(), PATIENCE))
            print(f"test mcp::python::{run.__name__} ... ok", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"test mcp::python::{run.__name__} ... FAILED", flush=True)
    print(f"test result: {'FAILED' if failed else 'ok'}. {len(tests) - failed} passed; {failed} failed")
    return min(failed, 1)


sys.exit(main())
