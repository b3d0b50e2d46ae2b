"""Every call sends one request, and the blocking kind sends what the awaited one does."""

from __future__ import annotations

import asyncio
import inspect
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from fake import Answer, FakeServer, Request

import wrenn_sandbox as sdk
from wrenn_sandbox._operations import OPERATIONS

DOCUMENT = json.loads((pathlib.Path(__file__).parents[3] / "api" / "openapi.json").read_text())


def sample(schema: dict[str, Any]) -> Any:
    """The least value that a schema allows."""
    if "$ref" in schema:
        return sample(DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]])
    if "allOf" in schema:
        return {name: value for part in schema["allOf"] for name, value in sample(part).items()}
    if "oneOf" in schema:
        return sample(schema["oneOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        wanted = schema.get("required", [])
        return {name: sample(schema["properties"][name]) for name in wanted}
    if schema.get("type") == "array":
        return [sample(schema["items"])]
    return {"string": "text", "integer": 1, "number": 1.5, "boolean": True}[schema["type"]]


def operation_of(request: Request) -> str:
    path = request.path.split("?")[0]
    for name, operation in OPERATIONS.items():
        wanted = re.sub(r"\{\w+\}", "[^/]+", operation.path)
        if operation.method == request.method and re.fullmatch(wanted, path):
            return name
    raise AssertionError(f"{request.method} {path} is no route")


def answer_by_document(request: Request) -> Answer:
    operation = OPERATIONS[operation_of(request)]
    spec = DOCUMENT["paths"][operation.path][operation.method.lower()]
    status, response = min((int(c), r) for c, r in spec["responses"].items() if c[0] == "2")
    content = response.get("content", {})
    fields = (
        ("wrenn-next-offset", "5"),
        ("upload-offset", "3"),
        ("location", "/uploads/u1"),
    )
    if "application/x-ndjson" in content:
        schema = content["application/x-ndjson"]["schema"]
        lines = [sample(part) for part in schema_variants(schema)]
        return Answer(status, "\n".join(json.dumps(line) for line in lines).encode() + b"\n")
    if "application/json" in content:
        return Answer(status, sample(content["application/json"]["schema"]), fields)
    return Answer(status, b"abc" if content else None, fields)


def schema_variants(schema: dict[str, Any]) -> list[dict[str, Any]]:
    target = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    return list(target.get("oneOf", [target]))


Call = Callable[[Any, Any, Any, pathlib.Path], Any]

CALLS: dict[str, Call] = {
    "create_sandbox": lambda c, S, s, t: S.create("a", envs={"A": "b"}, client=c),
    "create_sandbox_by_name": lambda c, S, s, t: S.get_or_create("a", metadata={}, client=c),
    "list_sandboxes": lambda c, S, s, t: S.list(status="paused", client=c),
    "count_sandboxes": lambda c, S, s, t: S.count(metadata={"a": "b"}, client=c),
    "get_usage": lambda c, S, s, t: S.get_usage(["sb-1"], client=c),
    "get_usage_of_all": lambda c, S, s, t: S.get_usage(client=c),
    "list_snapshots": lambda c, S, s, t: S.list_snapshots(client=c),
    "get_snapshot": lambda c, S, s, t: S.get_snapshot("a", client=c),
    "delete_snapshot": lambda c, S, s, t: S.delete_snapshot("a", client=c),
    "get_sandbox": lambda c, S, s, t: s.get_info(),
    "update_sandbox": lambda c, S, s, t: s.update(name="b", labels={"a": None}),
    "update_sandbox_timeout": lambda c, S, s, t: s.set_timeout(5),
    "wait_for_sandbox": lambda c, S, s, t: s.wait(["paused"], timeout=3),
    "keep_sandbox_alive": lambda c, S, s, t: s.keep_alive(),
    "ping_sandbox": lambda c, S, s, t: s.ping(),
    "delete_sandbox": lambda c, S, s, t: s.kill(),
    "pause_sandbox": lambda c, S, s, t: s.pause(),
    "resume_sandbox": lambda c, S, s, t: s.resume(),
    "fork_sandbox": lambda c, S, s, t: s.fork(2),
    "rollback_sandbox": lambda c, S, s, t: s.rollback("a"),
    "undo_sandbox": lambda c, S, s, t: s.undo(2),
    "diff_sandbox": lambda c, S, s, t: s.diff("a", "b", path="/a", patches=True, timeout=1),
    "get_history": lambda c, S, s, t: s.get_history(),
    "create_snapshot": lambda c, S, s, t: s.create_snapshot("a", memory=False, overwrite=True),
    "set_network": lambda c, S, s, t: s.update_network(deny_out=["a"], allow_out=["b"]),
    "get_sandbox_metrics": lambda c, S, s, t: s.get_metrics(start="1", end="2", step=3),
    "get_sandbox_disk_usage": lambda c, S, s, t: s.get_disk_usage(),
    "logs": lambda c, S, s, t: s.get_logs(),
    "create_port_link": lambda c, S, s, t: s.get_url(80, expires_in=5),
    "create_checkpoint": lambda c, S, s, t: s.checkpoints.create("a"),
    "list_checkpoints": lambda c, S, s, t: s.checkpoints.list(),
    "delete_checkpoint": lambda c, S, s, t: s.checkpoints.delete("a"),
    "set_auto_checkpoint": lambda c, S, s, t: s.checkpoints.set_auto(every_sec=9),
    "remove_auto_checkpoint": lambda c, S, s, t: s.checkpoints.remove_auto(),
    "start_command": lambda c, S, s, t: s.commands.run(["a"], True, name="n", timeout=60),
    "start_command_on_terminal": lambda c, S, s, t: s.pty.create(cmd="a", cwd="/", timeout=5),
    "list_commands": lambda c, S, s, t: s.commands.list(),
    "get_command": lambda c, S, s, t: s.pty.connect("c", tail_bytes=1),
    "read_command_output": lambda c, S, s, t: s.commands.read_output("c", stream="stdout", wait=1),
    "signal_command": lambda c, S, s, t: s.commands.kill("c"),
    "write_command_stdin": lambda c, S, s, t: s.pty.send_stdin("c", b"d"),
    "write_command_stdin_close": lambda c, S, s, t: s.commands.close_stdin("c"),
    "resize_command": lambda c, S, s, t: s.pty.resize("c", sdk.PtySize(1, 2)),
    "stream_read_file": lambda c, S, s, t: s.files.read("a", "bytes", user="u"),
    "stream_read_file_to_file": lambda c, S, s, t: s.files.download("a", t / "down"),
    "stream_write_file": lambda c, S, s, t: s.files.write_files([("a", b"b")]),
    "list_files": lambda c, S, s, t: s.files.list("a", 2),
    "stat_file": lambda c, S, s, t: s.files.exists("a"),
    "move_file": lambda c, S, s, t: s.files.rename("a", "b"),
    "remove_file": lambda c, S, s, t: s.files.remove("a"),
    "change_mode": lambda c, S, s, t: s.files.chmod("a", "0600"),
    "change_owner": lambda c, S, s, t: s.files.chown("a", "root"),
    "search_files": lambda c, S, s, t: s.files.search("a", name="*", timeout=3),
    "read_archive": lambda c, S, s, t: s.files.read_archive("a", single_file=True),
    "write_archive": lambda c, S, s, t: s.files.write_archive("a", b"", single_file=True),
    "health": lambda c, S, s, t: c.health(),
    "openapi_json": lambda c, S, s, t: c.openapi(),
    "get_disk_usage": lambda c, S, s, t: c.get_disk_usage(),
    "get_host_metrics": lambda c, S, s, t: c.get_host_metrics(step=5),
    "list_events": lambda c, S, s, t: c.events.list(type="sandbox.*", limit=1),
    "list_webhooks": lambda c, S, s, t: c.webhooks.list(),
    "create_webhook": lambda c, S, s, t: c.webhooks.create("https://a", events=["b"]),
    "get_webhook": lambda c, S, s, t: c.webhooks.get("w"),
    "update_webhook": lambda c, S, s, t: c.webhooks.update("w", events=[], enabled=True),
    "delete_webhook": lambda c, S, s, t: c.webhooks.delete("w"),
    "test_webhook": lambda c, S, s, t: c.webhooks.test("w"),
    "rotate_webhook_secret": lambda c, S, s, t: c.webhooks.rotate_secret("w", overlap_sec=5),
    "list_webhook_deliveries": lambda c, S, s, t: c.webhooks.list_deliveries("w", status="dead"),
    "get_webhook_delivery": lambda c, S, s, t: c.webhooks.get_delivery("w", "d"),
    "redeliver_webhook_delivery": lambda c, S, s, t: c.webhooks.redeliver("w", "d"),
    "redeliver_dead_letters": lambda c, S, s, t: c.webhooks.redeliver_dead("w"),
}

VARIES = re.compile(rb"wrenn-[0-9a-f]{32}")


def sent(fake: FakeServer) -> list[tuple[Any, ...]]:
    """Requests, without what differs each time."""
    requests = [
        (r.method, r.path, VARIES.sub(b"", r.body), r.headers.get("upload-metadata"))
        for r in fake.requests
    ]
    fake.requests.clear()
    return requests


async def call_awaited(fake: FakeServer, call: Call, tmp_path: pathlib.Path) -> Any:
    async with sdk.AsyncClient(fake.url, "wrn_test") as client:
        sandbox = sdk.AsyncSandbox("sb-1", client._connection)
        result = call(client, sdk.AsyncSandbox, sandbox, tmp_path)
        if inspect.isawaitable(result):
            result = await result
        return [item async for item in result] if is_stream(result) else result


def call_blocking(fake: FakeServer, call: Call, tmp_path: pathlib.Path) -> Any:
    with sdk.Client(fake.url, "wrn_test") as client:
        sandbox = sdk.Sandbox("sb-1", client._connection)
        result = call(client, sdk.Sandbox, sandbox, tmp_path)
        return list(result) if is_stream(result) else result


def is_stream(result: Any) -> bool:
    """True for what has to be iterated over; a handle would open a WebSocket."""
    if isinstance(result, sdk.AsyncCommandHandle | sdk.CommandHandle | list | str | bytes):
        return False
    is_plain = isinstance(result, dict | tuple)
    return not is_plain and (hasattr(result, "__aiter__") or hasattr(result, "__iter__"))


@pytest.mark.parametrize("name", CALLS)
def test_kinds_send_same_request(name: str, fake: FakeServer, tmp_path: pathlib.Path) -> None:
    fake.answers = [answer_by_document]
    awaited = asyncio.run(call_awaited(fake, CALLS[name], tmp_path))
    of_awaited = sent(fake)
    blocking = call_blocking(fake, CALLS[name], tmp_path)
    assert sent(fake) == of_awaited
    assert len(of_awaited) == 1
    request = Request(of_awaited[0][0], of_awaited[0][1], {}, b"")
    assert name.startswith(operation_of(request))
    if not isinstance(blocking, sdk.Sandbox | sdk.CommandHandle | list):
        assert blocking == awaited


def test_upload_is_begun_and_sent(fake: FakeServer, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    fake.answers = [answer_by_document]

    def upload(c: Any, S: Any, s: Any, t: pathlib.Path) -> Any:
        return s.files.upload(t / "a", "/b", mode="0600")

    asyncio.run(call_awaited(fake, upload, tmp_path))
    of_awaited = sent(fake)
    call_blocking(fake, upload, tmp_path)
    assert sent(fake) == of_awaited
    assert [(method, body) for method, _, body, _ in of_awaited] == [
        ("POST", b""),
        ("PATCH", b"abc"),
    ]
