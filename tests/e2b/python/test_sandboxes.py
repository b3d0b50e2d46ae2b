"""Sandboxes: their creation, life, state and end."""

from __future__ import annotations

import dataclasses
import datetime
import re
import time
import uuid
from functools import partial
from typing import Any

import e2b
import pytest
from conftest import LIFETIME_SEC, LOOP, VERSION, Sdk, covers, go, port_request, until
from packaging.version import Version

GONE = "i00000000000000000000"
SLEEPER = "sleep 86399"


def seconds_left(info: Any) -> float:
    return (info.end_at - datetime.datetime.now(datetime.UTC)).total_seconds()


async def timed_create(sdk: Sdk, **options: Any) -> tuple[Any, Any, float]:
    """Creates a sandbox; returns it, its information, and the seconds by which its life may be longer than asked for.

    Its life counts from its answer, and it started while that was waited for, which is long on a busy machine.
    """
    begin = time.monotonic()
    sandbox = sdk.remember(await go(sdk.Sandbox.create(**options)))
    seconds = time.monotonic() - begin
    return sandbox, await go(sandbox.get_info()), seconds + 1


def is_paused(info: Any) -> bool:
    return str(getattr(info.state, "value", info.state)) == "paused"


async def paused(sdk: Sdk, sandbox: Any, **options: Any) -> None:
    """Pauses a sandbox with the call that all versions have."""
    await go(sandbox.pause(**options))
    assert is_paused(await go(sandbox.get_info()))


@covers("Sandbox.create")
async def test_new_sandbox_is_running(sdk: Sdk, box: Any) -> None:
    assert re.fullmatch("[a-z0-9-]+", box.sandbox_id)
    assert await go(box.is_running())
    assert await sdk.output(box, "echo hello") == "hello"


@covers("Sandbox.create")
async def test_timeout_is_five_minutes_by_default(sdk: Sdk) -> None:
    sandbox, info, longer = await timed_create(sdk)
    assert 299 <= (info.end_at - info.started_at).total_seconds() <= 300 + longer
    assert await go(sandbox.kill())


@covers("Sandbox.create(timeout)")
async def test_timeout_ends_sandbox(sdk: Sdk) -> None:
    sandbox, info, longer = await timed_create(sdk, timeout=4)
    assert 3 <= (info.end_at - info.started_at).total_seconds() <= 4 + longer

    async def ended() -> bool:
        return not await go(sandbox.is_running())

    await until(ended, "the end of the sandbox")
    assert datetime.datetime.now(datetime.UTC) >= info.end_at
    with pytest.raises(e2b.NotFoundException):
        await until(lambda: _info_is_gone(sandbox), "the removal")


async def _info_is_gone(sandbox: Any) -> bool:
    await go(sandbox.get_info())
    return False


@covers("Sandbox.create(metadata)")
async def test_metadata_is_kept(sdk: Sdk) -> None:
    metadata = {"run": sdk.run_id, "odd key/é": "odd & value=1 ✓", "empty": ""}
    sandbox = await sdk.create(metadata=metadata)
    assert (await go(sandbox.get_info())).metadata == metadata
    await paused(sdk, sandbox)
    assert (await go(sandbox.get_info())).metadata == metadata
    assert await go(sandbox.kill())


@covers("Sandbox.create(envs)")
async def test_envs_are_seen_by_every_command(sdk: Sdk) -> None:
    sandbox = await sdk.create(envs={"GREETING": "hello wörld", "PLACE": "sandbox"})
    assert await sdk.output(sandbox, 'echo "$GREETING|$PLACE"') == "hello wörld|sandbox"
    assert await sdk.output(sandbox, 'echo "$GREETING|$PLACE"', envs={"PLACE": "command"}) == "hello wörld|command"
    await paused(sdk, sandbox)
    again = await go(sandbox.connect())
    assert await sdk.output(again, 'echo "$GREETING|$PLACE"') == "hello wörld|sandbox"
    assert await go(sandbox.kill())


@covers("Sandbox.create(template)")
async def test_unknown_template_is_refused(sdk: Sdk) -> None:
    with pytest.raises(e2b.SandboxException) as caught:
        await sdk.create("no-such-template")
    assert "404" in str(caught.value)
    assert "no-such-template" in str(caught.value)


@covers("Sandbox.create(secure)")
async def test_token_guards_agent_always(sdk: Sdk, box: Any) -> None:
    assert port_request(box, 49983, "/files?path=/etc/hostname").status_code == 401
    assert port_request(box, 49983, "/health").status_code in (200, 204)
    # As newer versions have it, there is no sandbox without.
    sandbox = await sdk.create(secure=False)
    assert await sdk.output(sandbox, "echo reachable") == "reachable"
    assert port_request(sandbox, 49983, "/files?path=/etc/hostname").status_code == 401
    assert await go(sandbox.kill())


@covers("Sandbox.create(allow_internet_access)")
async def test_internet_access_can_be_taken(sdk: Sdk) -> None:
    sandbox = await sdk.create(allow_internet_access=False)
    assert (await go(sandbox.get_info())).allow_internet_access is False
    with pytest.raises(e2b.CommandExitException):
        await go(sandbox.commands.run("curl -sS --max-time 3 http://192.0.2.1/"))
    assert await go(sandbox.kill())


@covers("Sandbox.create(network)")
async def test_network_of_sandbox_is_told(sdk: Sdk) -> None:
    network = {"allow_out": ["1.1.1.1", "8.8.8.0/24"], "deny_out": ["0.0.0.0/0"]}
    sandbox = await sdk.create(network=network)
    if hasattr(e2b, "SandboxNetworkInfo"):
        found = (await go(sandbox.get_info())).network
        assert sorted(found["deny_out"]) == ["0.0.0.0/0"]
        assert len(found["allow_out"]) == 2
    assert await sdk.output(sandbox, "echo still reachable") == "still reachable"
    assert await go(sandbox.kill())


@covers("Sandbox.create(network)")
async def test_network_that_is_wrong_is_refused(sdk: Sdk) -> None:
    with pytest.raises(e2b.SandboxException) as caught:
        await sdk.create(network={"deny_out": ["not an address"]})
    assert "400" in str(caught.value)


@covers("Sandbox.create(network)")
async def test_private_ports_need_token(sdk: Sdk) -> None:
    sandbox = await sdk.create(network={"allow_public_traffic": False})
    await serve(sdk, sandbox, 8000)
    assert port_request(sandbox, 8000).status_code == 403
    token = {"e2b-traffic-access-token": sandbox.traffic_access_token}
    assert port_request(sandbox, 8000, headers=token).status_code == 200
    assert await go(sandbox.kill())


@covers("Sandbox.create(lifecycle)")
async def test_sandbox_pauses_at_timeout_when_asked(sdk: Sdk) -> None:
    sandbox = await sdk.create(lifecycle={"on_timeout": "pause"})
    command = await sdk.start(sandbox, SLEEPER, timeout=0)
    info = await go(sandbox.get_info())
    assert info.lifecycle["on_timeout"] == "pause"
    await go(sandbox.set_timeout(1))

    async def asleep() -> bool:
        return is_paused(await go(sandbox.get_info()))

    await until(asleep, "the pause")
    await go(sandbox.connect(timeout=60))
    assert await sdk.output(sandbox, f"kill -0 {command.pid} && echo alive") == "alive"
    assert await go(sandbox.kill())


@covers("Sandbox.create(lifecycle)")
async def test_paused_sandbox_resumes_by_itself_when_asked(sdk: Sdk) -> None:
    sandbox = await sdk.create(lifecycle={"on_timeout": "pause", "auto_resume": True})
    await serve(sdk, sandbox, 8000)
    await paused(sdk, sandbox)
    assert port_request(sandbox, 8000).status_code == 200
    assert await sdk.output(sandbox, "echo awake") == "awake"
    assert await go(sandbox.kill())


@covers("Sandbox.create(idempotency_key)")
async def test_create_with_same_key_is_one(sdk: Sdk) -> None:
    key = f"key-{uuid.uuid4()}"
    first = await sdk.create(idempotency_key=key, metadata={"a": "1"})
    second = await go(sdk.Sandbox.create(idempotency_key=key, metadata={"a": "1"}, timeout=600))
    assert second.sandbox_id == first.sandbox_id
    with pytest.raises(e2b.SandboxException) as caught:
        await go(sdk.Sandbox.create(idempotency_key=key, metadata={"a": "2"}, timeout=600))
    assert caught.value.status_code == 422
    assert await go(first.kill())


@covers("Sandbox.beta_create")
async def test_beta_create_pauses_at_timeout(sdk: Sdk) -> None:
    sandbox = sdk.remember(await go(sdk.Sandbox.beta_create(timeout=2, auto_pause=True)))

    async def asleep() -> bool:
        return is_paused(await go(sandbox.get_info()))

    await until(asleep, "the pause")
    assert await go(sandbox.kill())


@covers("Sandbox.connect")
async def test_connect_finds_running_sandbox(sdk: Sdk, box: Any) -> None:
    again = await go(sdk.Sandbox.connect(box.sandbox_id))
    assert again.sandbox_id == box.sandbox_id
    # Version 2.20 names no sandbox in the requests that follow: the server finds it by its token.
    assert await sdk.output(again, "echo $E2B_SANDBOX_ID") == box.sandbox_id
    assert "root:" in await go(again.files.read("/etc/passwd"))
    assert await go(again.is_running())
    assert (await go(box.connect())).sandbox_id == box.sandbox_id
    with pytest.raises(e2b.NotFoundException) as caught:
        await go(sdk.Sandbox.connect(GONE))
    assert isinstance(caught.value, e2b.SandboxNotFoundException)


@covers("Sandbox.connect(timeout)")
async def test_connect_extends_and_never_shortens(sdk: Sdk, box: Any) -> None:
    await go(box.set_timeout(300))
    await go(sdk.Sandbox.connect(box.sandbox_id, timeout=10))
    assert seconds_left(await go(box.get_info())) > 280
    await go(sdk.Sandbox.connect(box.sandbox_id, timeout=LIFETIME_SEC))
    assert seconds_left(await go(box.get_info())) > LIFETIME_SEC - 60


@covers("Sandbox.get_info")
async def test_info_describes_sandbox(sdk: Sdk, box: Any) -> None:
    info = await go(sdk.Sandbox.get_info(box.sandbox_id))
    assert (info.sandbox_id, info.metadata["run"]) == (box.sandbox_id, sdk.run_id)
    assert info.template_id
    assert not is_paused(info)
    assert info.started_at.tzinfo
    assert info.cpu_count >= 1
    assert info.memory_mb >= 128
    assert Version("0.6.13") <= Version(info.envd_version)
    with pytest.raises(e2b.SandboxNotFoundException):
        await go(sdk.Sandbox.get_info(GONE))


@covers("Sandbox.set_timeout")
async def test_timeout_can_be_changed_both_ways(sdk: Sdk, box: Any) -> None:
    for seconds, change in ((200, box.set_timeout), (LIFETIME_SEC, partial(sdk.Sandbox.set_timeout, box.sandbox_id))):
        begin = time.monotonic()
        await go(change(seconds))
        left = seconds_left(await go(box.get_info()))
        # To the second, less what the two calls took.
        assert seconds - 1 - (time.monotonic() - begin) <= left <= seconds + 1
    with pytest.raises(e2b.SandboxNotFoundException):
        await go(sdk.Sandbox.set_timeout(GONE, 50))


@covers("Sandbox.set_timeout")
async def test_timeout_of_zero_ends_sandbox(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    await go(sandbox.set_timeout(0))

    async def ended() -> bool:
        return not await go(sandbox.is_running())

    await until(ended, "the end of the sandbox")


@covers("Sandbox.is_running")
async def test_killed_sandbox_is_not_running(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    assert await go(sandbox.is_running()) is True
    assert await go(sandbox.kill()) is True
    assert await go(sandbox.is_running()) is False


@covers("Sandbox.kill")
async def test_kill_is_true_once(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    assert await go(sdk.Sandbox.kill(sandbox.sandbox_id)) is True
    assert await go(sandbox.kill()) is False
    assert await go(sdk.Sandbox.kill(GONE)) is False
    with pytest.raises(e2b.TimeoutException):
        await go(sandbox.commands.run("true"))
    with pytest.raises(e2b.TimeoutException):
        await go(sandbox.files.read("/etc/hostname"))


@covers("Sandbox.kill")
async def test_kill_breaks_stream_of_command(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    command = await sdk.start(sandbox, SLEEPER, timeout=0)
    assert await go(sandbox.kill())
    with pytest.raises(Exception) as caught:
        await go(command.wait())
    if hasattr(e2b, "SandboxNotRunningException"):
        assert isinstance(caught.value, e2b.SandboxNotRunningException)


@covers("Sandbox.kill")
async def test_paused_sandbox_is_killed(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    await paused(sdk, sandbox)
    assert await go(sandbox.kill()) is True
    with pytest.raises(e2b.SandboxNotFoundException):
        await go(sandbox.get_info())


@covers("Sandbox.pause")
async def test_paused_processes_go_on(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    command = await sdk.start(sandbox, SLEEPER, timeout=0)
    await paused(sdk, sandbox)
    assert await go(sandbox.is_running()) is False
    with pytest.raises(e2b.TimeoutException):
        await go(sandbox.commands.run("true"))
    second = await go(sandbox.pause())
    assert second in ((None,) if Version("2.30") > VERSION else (False,))
    again = await go(sandbox.connect())
    assert await sdk.output(again, f"kill -0 {command.pid} && echo alive") == "alive"
    assert await go(sandbox.kill())
    with pytest.raises(e2b.SandboxNotFoundException):
        await go(sdk.Sandbox.pause(GONE))


@covers("Sandbox.pause(strict)")
async def test_strict_pause_of_healthy_guest_works(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    assert await go(sandbox.pause(strict=True)) is True
    assert await go(sandbox.kill())


@covers("Sandbox.beta_pause")
async def test_beta_pause_pauses(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    await go(sandbox.beta_pause())
    assert is_paused(await go(sandbox.get_info()))
    assert await go(sandbox.kill())


async def pages(paginator: Any) -> list[Any]:
    """Returns the items of all pages."""
    found = []
    while paginator.has_next:
        found += await go(paginator.next_items())
    return found


@covers("Sandbox.list")
async def test_list_finds_by_metadata(sdk: Sdk, box: Any) -> None:
    query = e2b.SandboxQuery(metadata={"run": sdk.run_id, "purpose": "shared"})
    found = await pages(sdk.Sandbox.list(query=query))
    assert [info.sandbox_id for info in found] == [box.sandbox_id]
    assert found[0].metadata["purpose"] == "shared"
    assert box.sandbox_id in [info.sandbox_id for info in await pages(sdk.Sandbox.list())]


@covers("Sandbox.list")
async def test_list_finds_odd_metadata_and_state(sdk: Sdk) -> None:
    metadata = {"a b": "c&d/é=1 %20+", "list": sdk.run_id}
    sandbox = await sdk.create(metadata=metadata)
    await paused(sdk, sandbox)

    async def ids(*states: Any) -> list[str]:
        query = e2b.SandboxQuery(metadata=metadata, state=list(states) or None)
        return [info.sandbox_id for info in await pages(sdk.Sandbox.list(query=query))]

    assert await ids() == [sandbox.sandbox_id]
    other = e2b.SandboxQuery(metadata={"a b": "other"})
    assert await pages(sdk.Sandbox.list(query=other)) == []

    assert await ids(e2b.SandboxState.PAUSED) == [sandbox.sandbox_id]
    assert await ids(e2b.SandboxState.RUNNING) == []
    assert await ids(e2b.SandboxState.RUNNING, e2b.SandboxState.PAUSED) == [sandbox.sandbox_id]
    assert await go(sandbox.kill())


@covers("Sandbox.list(limit)")
async def test_list_comes_in_pages(sdk: Sdk) -> None:
    created = [(await sdk.create(metadata={"page": sdk.run_id})).sandbox_id for _ in range(2)]
    query = e2b.SandboxQuery(metadata={"page": sdk.run_id})
    paginator = sdk.Sandbox.list(query=query, limit=1)
    first = await go(paginator.next_items())
    assert len(first) == 1
    assert paginator.has_next
    rest = await go(sdk.Sandbox.list(query=query, limit=1, next_token=paginator.next_token).next_items())
    assert [info.sandbox_id for info in first + rest] == created[::-1]
    await go(paginator.next_items())
    assert not paginator.has_next
    with pytest.raises(Exception, match="No more items"):
        await go(paginator.next_items())
    if hasattr(e2b, "SandboxListOrder"):
        oldest_first = await pages(sdk.Sandbox.list(query=query, limit=1, order="asc"))
        assert [info.sandbox_id for info in oldest_first] == created
    for sandbox_id in created:
        assert await go(sdk.Sandbox.kill(sandbox_id))


@covers("Sandbox.list(order)")
async def test_list_finds_by_start_and_template(sdk: Sdk, box: Any) -> None:
    info = await go(box.get_info())

    async def ids(**fields: Any) -> list[str]:
        query = e2b.SandboxQuery(metadata={"run": sdk.run_id, "purpose": "shared"}, **fields)
        return [found.sandbox_id for found in await pages(sdk.Sandbox.list(query=query))]

    assert await ids(started_after=info.started_at) == [box.sandbox_id]
    assert await ids(started_after=info.started_at + datetime.timedelta(seconds=1)) == []
    assert await ids(template=info.template_id) == [box.sandbox_id]
    assert await ids(template="no-such-template") == []


@covers("Sandbox.get_metrics")
async def test_metrics_of_running_sandbox_come(sdk: Sdk, box: Any) -> None:
    metrics = await until(lambda: go(box.get_metrics()), "a first metric")
    metric = metrics[-1]
    assert metric.cpu_count >= 1
    assert metric.cpu_used_pct >= 0
    assert 0 < metric.mem_used <= metric.mem_total
    assert 0 < metric.disk_used <= metric.disk_total
    now = datetime.datetime.now(datetime.UTC)
    before = await go(box.get_metrics(start=now - datetime.timedelta(hours=2), end=now - datetime.timedelta(hours=1)))
    assert before == []
    with pytest.raises(e2b.SandboxNotFoundException):
        await go(sdk.Sandbox.get_metrics(GONE))


async def serve(sdk: Sdk, sandbox: Any, port: int) -> None:
    """Starts a web server in a sandbox, of an empty directory, on its loopback address alone."""
    await go(sandbox.files.make_dir("/tmp/served"))
    await sdk.start(sandbox, f"cd /tmp/served && python3 -m http.server --bind 127.0.0.1 {port}", timeout=0)
    listening = f"timeout 100 sh -c 'until ss -ltn | grep -q :{port}; do sleep 0.1; done'"
    await go(sandbox.commands.run(listening, timeout=120))


@covers("Sandbox.get_host")
async def test_host_names_port_and_sandbox(sdk: Sdk, box: Any) -> None:
    assert box.get_host(3000).startswith(f"3000-{box.sandbox_id}.")
    await serve(sdk, box, 3000)
    answer = port_request(box, 3000)
    assert (answer.status_code, "Directory listing" in answer.text) == (200, True)
    closed = port_request(box, 3999)
    assert (closed.status_code, closed.json()["message"], closed.json()["port"]) == (
        502,
        "The sandbox is running but port is not open",
        3999,
    )


@covers("Sandbox.get_host")
async def test_port_of_killed_sandbox_is_not_found(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    assert await go(sandbox.kill())
    answer = port_request(sandbox, 3000)
    assert (answer.status_code, answer.json()["message"], answer.json()["code"]) == (
        502,
        "The sandbox was not found",
        502,
    )
    assert sandbox.sandbox_id.startswith(answer.json()["sandboxId"])


@covers("Sandbox.get_mcp_url")
async def test_mcp_url_names_port(sdk: Sdk, box: Any) -> None:
    assert box.get_mcp_url() == f"https://{box.get_host(50005)}/mcp"


@covers("Sandbox.get_mcp_token")
async def test_mcp_token_is_read_as_root(sdk: Sdk, box: Any) -> None:
    with pytest.raises(e2b.NotFoundException):
        await go(box.get_mcp_token())
    await go(box.files.write("/etc/mcp-gateway/.token", "secret", user="root"))
    await go(box.commands.run("chmod 600 /etc/mcp-gateway/.token", user="root"))
    assert await go(box.get_mcp_token()) == "secret"


@covers("Sandbox.create(mcp)")
async def test_mcp_gateway_that_is_missing_ends_sandbox(sdk: Sdk) -> None:
    with pytest.raises(e2b.SandboxException):
        await sdk.create("base", mcp={"exa": {"apiKey": "x"}}, metadata={"mcp": sdk.run_id})
    assert await pages(sdk.Sandbox.list(query=e2b.SandboxQuery(metadata={"mcp": sdk.run_id}))) == []


@dataclasses.dataclass
class Source:
    """A sandbox that is copied, and the process in it."""

    sandbox: Any
    pid: int


@pytest.fixture(scope="session")
def source(sdk: Sdk) -> Source:
    async def make() -> Source:
        sandbox = await sdk.create(metadata={"source": sdk.run_id})
        await go(sandbox.files.write("state", "saved"))
        command = await sdk.start(sandbox, SLEEPER, timeout=0)
        return Source(sandbox, command.pid)

    return LOOP.run_until_complete(make())


@covers("Sandbox.fork")
async def test_forks_begin_where_parent_is(sdk: Sdk, source: Source) -> None:
    parent = source.sandbox
    children = [sdk.remember(child) for child in await go(parent.fork(count=2, timeout=300))]
    assert len({parent.sandbox_id, *(child.sandbox_id for child in children)}) == 3
    for number, child in enumerate(children):
        assert await go(child.files.read("state")) == "saved"
        assert await sdk.output(child, f"kill -0 {source.pid} && echo alive") == "alive"
        assert await sdk.output(child, "echo $E2B_SANDBOX_ID") == child.sandbox_id
        await go(child.files.write("state", f"child {number}"))
        assert (await go(child.get_info())).metadata == {"source": sdk.run_id}
    assert await go(parent.files.read("state")) == "saved"
    for child in children:
        assert await go(child.kill())


@covers("Sandbox.fork")
async def test_fork_of_paused_or_killed_raises(sdk: Sdk) -> None:
    with pytest.raises(e2b.SandboxNotFoundException):
        await go(sdk.Sandbox.fork(GONE))
    with pytest.raises(e2b.InvalidArgumentException):
        await go(sdk.Sandbox.fork(GONE, count=0))
    sandbox = await sdk.create()
    await paused(sdk, sandbox)
    with pytest.raises(e2b.SandboxException) as caught:
        await go(sandbox.fork())
    assert "409" in str(caught.value)
    assert await go(sandbox.kill())


@covers("Sandbox.create_snapshot")
async def test_snapshot_makes_new_sandboxes(sdk: Sdk, source: Source) -> None:
    snapshot = await go(source.sandbox.create_snapshot())
    assert await go(source.sandbox.is_running())
    await go(source.sandbox.files.write("state", "later"))
    copy = await sdk.create(snapshot.snapshot_id)
    assert await go(copy.files.read("state")) == "saved"
    assert await sdk.output(copy, f"kill -0 {source.pid} && echo alive") == "alive"
    assert await go(copy.kill())
    await go(source.sandbox.files.write("state", "saved"))
    assert await go(sdk.Sandbox.delete_snapshot(snapshot.snapshot_id)) is True
    with pytest.raises(e2b.SandboxNotFoundException):
        await go(sdk.Sandbox.create_snapshot(GONE))


@covers("Sandbox.create_snapshot(name)")
async def test_snapshot_has_name(sdk: Sdk, source: Source) -> None:
    name = f"snap-{sdk.run_id}"
    snapshot = await go(source.sandbox.create_snapshot(name=name))
    assert any(name in full for full in snapshot.names)
    copy = await sdk.create(name)
    assert await go(copy.files.read("state")) == "saved"
    assert await go(copy.kill())
    assert await go(sdk.Sandbox.delete_snapshot(snapshot.snapshot_id)) is True


@covers("Sandbox.create_snapshot(mode)")
async def test_snapshot_of_file_system_boots(sdk: Sdk, source: Source) -> None:
    snapshot = await go(source.sandbox.create_snapshot(mode="filesystem"))
    copy = await sdk.create(snapshot.snapshot_id)
    assert await go(copy.files.read("state")) == "saved"
    assert await sdk.output(copy, f"pgrep -fx '{SLEEPER}' || echo gone") == "gone"
    assert await go(copy.kill())
    assert await go(sdk.Sandbox.delete_snapshot(snapshot.snapshot_id)) is True


@covers("Sandbox.list_snapshots")
async def test_snapshots_are_listed_and_deleted(sdk: Sdk, source: Source) -> None:
    created = [(await go(source.sandbox.create_snapshot())).snapshot_id for _ in range(2)]
    listed = [found.snapshot_id for found in await pages(source.sandbox.list_snapshots(limit=1))]
    assert sorted(listed) == sorted(created)
    everything = [found.snapshot_id for found in await pages(sdk.Sandbox.list_snapshots())]
    assert set(created) <= set(everything)
    for snapshot_id in created:
        assert await go(sdk.Sandbox.delete_snapshot(snapshot_id)) is True


@covers("Sandbox.list_snapshots(name)")
async def test_snapshot_is_found_by_name(sdk: Sdk, source: Source) -> None:
    name = f"find-{sdk.run_id}"
    snapshot = await go(source.sandbox.create_snapshot(name=name))
    found = await pages(sdk.Sandbox.list_snapshots(name=name))
    assert [item.snapshot_id for item in found] == [snapshot.snapshot_id]
    assert await pages(sdk.Sandbox.list_snapshots(name="no-such-snapshot")) == []
    assert await go(sdk.Sandbox.delete_snapshot(snapshot.snapshot_id)) is True


@covers("Sandbox.delete_snapshot")
async def test_snapshot_is_deleted_once(sdk: Sdk, source: Source) -> None:
    snapshot = await go(source.sandbox.create_snapshot())
    assert await go(sdk.Sandbox.delete_snapshot(snapshot.snapshot_id)) is True
    assert await go(sdk.Sandbox.delete_snapshot(snapshot.snapshot_id)) is False


@covers("Sandbox.update_network")
async def test_network_is_replaced(sdk: Sdk) -> None:
    sandbox = await sdk.create(network={"deny_out": ["8.8.4.0/24"]})
    await go(sandbox.update_network({"allow_out": ["1.1.1.1"], "deny_out": ["0.0.0.0/0"]}))
    network = (await go(sandbox.get_info())).network
    assert (network["allow_out"], network["deny_out"]) == (["1.1.1.1"], ["0.0.0.0/0"])
    await go(sandbox.update_network({}))
    network = (await go(sandbox.get_info())).network or {}
    assert not network.get("allow_out")
    assert not network.get("deny_out")
    assert await go(sandbox.kill())
    with pytest.raises(e2b.SandboxNotFoundException):
        await go(sdk.Sandbox.update_network(GONE, {}))
