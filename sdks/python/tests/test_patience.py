"""Streams and uploads over broken connections, against a server that does what the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from fake import CUT, Answer, FakeServer, Request, error
from test_sockets import COMMAND, EXIT, KEY, Sockets, follower, frames, output
from websockets.sync.server import ServerConnection

import wrenn_sandbox as sdk
from wrenn_sandbox import AsyncClient, AsyncSandbox, Client, Sandbox
from wrenn_sandbox._async.handles import AsyncBackgroundHandle
from wrenn_sandbox._io_async import default_clients
from wrenn_sandbox._models import CommandInfo
from wrenn_sandbox._net import environment_proxy
from wrenn_sandbox._values import MAX_KEPT, OutputChunk, OutputCollector

ATTACHED = {"type": "attached"}
AWAY = {"type": "error", "code": "host_unavailable", "data": "restart"}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are noted, and take no time."""
    pauses: list[float] = []

    async def note_async(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("wrenn_sandbox._io_sync.sleep", pauses.append)
    monkeypatch.setattr("wrenn_sandbox._io_async.sleep", note_async)
    return pauses


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    server = Sockets()
    yield server
    server.stop()


@pytest.fixture
def impatient(sockets: Sockets) -> Iterator[Sandbox]:
    """A sandbox whose streams are given up at the second failure in a row."""
    with Client(sockets.url, KEY) as client:
        client._connection.patience = 0
        yield Sandbox("sb-1", client._connection)


def test_quiet_follower_survives_many_breaks(impatient: Sandbox, sockets: Sockets) -> None:
    sockets.scripts = [
        frames(ATTACHED),
        frames(ATTACHED),
        frames(ATTACHED, output("YQ==", 1), EXIT),
    ]
    assert follower(impatient).wait().stdout == "a"
    assert len(sockets.paths) == 3


def test_follower_gives_up_without_answer(
    impatient: Sandbox, sockets: Sockets, no_pauses: list[float]
) -> None:
    sockets.scripts = [frames(ATTACHED), frames(AWAY)]
    with pytest.raises(sdk.HostUnavailableError):
        follower(impatient).wait()
    # The break, and the first refusal of the next connection.
    assert len(no_pauses) == 1
    assert len(sockets.paths) == 2


def test_lost_exit_code_is_not_asked_again(
    impatient: Sandbox, sockets: Sockets, no_pauses: list[float]
) -> None:
    unknown = {"type": "error", "code": "agent_error", "data": "the end is not known"}
    sockets.scripts = [frames(unknown), frames(ATTACHED, unknown)]
    handle = follower(impatient)
    with pytest.raises(sdk.AgentError, match="not known"):
        handle.wait()
    assert len(sockets.paths) == 2
    assert len(no_pauses) == 1


def test_disconnect_while_attaching_is_kept(sockets: Sockets) -> None:
    tasks: list[asyncio.Future[None]] = []

    async def awaited() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncClient(sockets.url, KEY) as client:
            commands = AsyncSandbox("sb-1", client._connection).commands
            handle = AsyncBackgroundHandle(commands, CommandInfo.from_json(COMMAND), 0)

            def attach(connection: ServerConnection) -> None:
                loop.call_soon_threadsafe(disconnect)
                connection.recv()

            def disconnect() -> None:
                tasks.append(asyncio.ensure_future(handle.disconnect()))

            sockets.scripts = [attach]
            assert [chunk async for chunk in handle.chunks()] == []
            await asyncio.gather(*tasks)

    asyncio.run(awaited())


def event(cursor: int) -> bytes:
    value = {
        "id": f"evt-{cursor}",
        "cursor": str(cursor),
        "type": "sandbox.paused",
        "time": "2026-01-01T00:00:00Z",
        "actor": {"type": "server", "id": "x"},
        "subject": "sb-1",
        "data": {},
    }
    return f"id: {cursor}\nevent: sandbox.paused\ndata: {json.dumps(value)}\n\n".encode()


def test_quiet_event_stream_keeps_its_place(fake: FakeServer) -> None:
    fake.answers = [
        Answer(200, b"id: 4\n\n"),
        Answer(200, b": alive\n\n"),
        Answer(200, event(5)),
    ]
    with Client(fake.url, KEY) as client:
        client._connection.patience = 0
        events = client.events.stream(since="2026-01-01T00:00:00Z")
        # Connected before the call returned.
        assert len(fake.requests) == 1
        assert events.cursor is None
        assert next(events).cursor == "5"
        assert events.cursor == "5"
        events.close()
    queries = [request.path.split("?")[1] for request in fake.requests]
    assert queries == ["since=2026-01-01T00%3A00%3A00Z", "cursor=4", "cursor=4"]


def test_upload_survives_outage_and_conflict(fake: FakeServer) -> None:
    arrived = b""
    outage = 5
    had_conflict = False

    def answer(request: Request) -> Answer:
        nonlocal arrived, outage, had_conflict
        if request.method == "POST":
            return Answer(201, None, (("location", "/0a1b"),))
        if request.method == "HEAD" and outage > 0:
            outage -= 1
            return Answer(503)
        if request.method == "PATCH" and not arrived:
            arrived = request.body[:2]
            return CUT
        if request.method == "PATCH" and not had_conflict:
            # A byte of the part before arrived late.
            had_conflict = True
            arrived += request.body[:1]
            return error(409, "conflict")
        if request.method == "PATCH":
            arrived += request.body
        return Answer(204, None, (("upload-offset", str(len(arrived))),))

    fake.answers = [answer]
    with Client(fake.url, KEY) as client:
        Sandbox("sb-1", client._connection).files.upload(b"abcdef", "/a")
    assert (arrived, outage) == (b"abcdef", 0)


def test_iterated_output_is_kept_in_part() -> None:
    collector = OutputCollector()
    for number in range(20):
        collector.keep(OutputChunk("stdout", bytes([number]) * (1 << 20), None))
    kept = collector.result(0).stdout_bytes
    assert len(kept) == MAX_KEPT
    assert kept[-1] == 19
    collector.is_wanted = True
    collector.keep(OutputChunk("stderr", bytes(1 << 20), None))
    assert len(collector.result(0).stderr_bytes) == 1 << 20


def test_oldest_output_is_dropped_first() -> None:
    collector = OutputCollector()
    collector.keep(OutputChunk("stderr", bytes(1 << 20), None))
    for _ in range(15):
        collector.keep(OutputChunk("stdout", bytes(1 << 20), None))
    collector.keep(OutputChunk("stdout", b"x", None))
    kept = collector.result(0)
    assert (len(kept.stdout_bytes), len(kept.stderr_bytes)) == ((15 << 20) + 1, 0)


def test_default_client_goes_with_its_loop(
    monkeypatch: pytest.MonkeyPatch, fake: FakeServer
) -> None:
    monkeypatch.setenv("WRENN_API_URL", fake.url)
    monkeypatch.setenv("WRENN_API_KEY", KEY)
    fake.answers = [Answer(404)]
    found = default_clients._by_loop
    before = len(found)

    async def use() -> None:
        with pytest.raises(sdk.NotFoundError):
            await AsyncSandbox.get("sb-1")
        # Its connections, before their loop ends.
        await found[asyncio.get_running_loop()].popitem()[1].aclose()

    for _ in range(3):
        asyncio.run(use())
    assert len(found) <= before + 1


def test_loopback_has_no_proxy(monkeypatch: pytest.MonkeyPatch, fake: FakeServer) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:2")
    monkeypatch.setenv("no_proxy", "near.example")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert environment_proxy("http://localhost:8000") is None
    assert environment_proxy("http://[::1]:8000") is None
    assert environment_proxy("http://near.example") is None
    assert environment_proxy("http://far.example") == "http://127.0.0.1:1"
    assert environment_proxy("https://far.example:4") == "http://127.0.0.1:2"
    fake.answers = [Answer(200, {"status": "ok"})]
    with Client(fake.url, KEY) as client:
        assert client.openapi() == {"status": "ok"}


def test_sockets_have_the_same_proxy(
    monkeypatch: pytest.MonkeyPatch, sockets: Sockets, fake: FakeServer
) -> None:
    monkeypatch.setenv("http_proxy", fake.url)
    sockets.scripts = [frames({"type": "start", "pid": 3}, EXIT)]
    with Client(sockets.url, KEY) as client:
        assert Sandbox("sb-1", client._connection).commands.run(["true"]).exit_code == 0
    fake.answers = [Answer(502)]
    with Client("http://far.example", KEY) as client, pytest.raises(sdk.WrennError):
        Sandbox("sb-1", client._connection).commands.run(["true"])
    assert len(sockets.paths) == 1
    assert fake.requests == []  # CONNECT is a method that it does not have
