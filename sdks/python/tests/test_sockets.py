"""WebSockets of commands, watches and ports, against a server that does what the test says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import pathlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
import websockets
from fake import Answer, FakeServer
from websockets.sync.server import ServerConnection, serve

import wrenn_sandbox as sdk
from wrenn_sandbox import AsyncClient, AsyncSandbox, Client, Sandbox
from wrenn_sandbox._async.handles import AsyncBackgroundHandle
from wrenn_sandbox._models import CommandInfo
from wrenn_sandbox._sync.handles import BackgroundHandle

KEY = "wrn_test"
COMMAND = {
    "id": "cmd-1",
    "cmd": "cat",
    "args": [],
    "keep_alive": False,
    "pid": 7,
    "started_at": "2026-01-01T00:00:00Z",
    "state": "running",
    "terminal": False,
    "output": {"start": 0, "end": 0, "dropped": 0},
}
Script = Callable[[ServerConnection], None]


class Sockets:
    """Carries out one script for each WebSocket, in order; the last one again and again."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.scripts: list[Script] = []
        self.paths: list[str] = []
        self.server = serve(self.handle, "127.0.0.1", 0, compression=None, ssl=tls)
        self.url = f"http://127.0.0.1:{self.server.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        assert connection.request.headers["x-api-key"] == KEY
        self.paths.append(connection.request.path)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        with contextlib.suppress(websockets.ConnectionClosed):
            script(connection)

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    server = Sockets()
    yield server
    server.stop()


@pytest.fixture
def sandbox(sockets: Sockets) -> Iterator[Sandbox]:
    with Client(sockets.url, KEY) as client:
        yield Sandbox("sb-1", client._connection)


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for up to 20 seconds."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def frames(*values: Any) -> Script:
    def send(connection: ServerConnection) -> None:
        for value in values:
            connection.send(json.dumps(value))

    return send


def follower(sandbox: Sandbox) -> BackgroundHandle:
    return BackgroundHandle(sandbox.commands, CommandInfo.from_json(COMMAND), 0)


def output(data: str, offset: int) -> dict[str, Any]:
    return {"type": "stdout", "data": data, "next_offset": offset}


EXIT = {"type": "exit", "exit_code": 0}


def test_lost_output_is_told_and_passed(sandbox: Sandbox, sockets: Sockets) -> None:
    lost = {"type": "dropped", "bytes": 10, "next_offset": 10}
    sockets.scripts = [frames({"type": "attached"}, lost, output("YQ==", 11), EXIT)]
    handle = follower(sandbox)
    with pytest.raises(sdk.OutputLostError) as caught:
        handle.wait()
    assert caught.value.lost_bytes == 10
    assert handle.wait().stdout == "a"
    assert handle.exit_code == 0


def test_handle_attaches_behind_what_came(sandbox: Sandbox, sockets: Sockets) -> None:
    away = {"type": "error", "code": "host_unavailable", "data": "restart"}
    sockets.scripts = [
        frames({"type": "attached"}, output("YQ==", 1)),
        frames(away),
        frames({"type": "attached"}, output("Yg==", 2), EXIT),
    ]
    assert [chunk.data for chunk in follower(sandbox).chunks()] == [b"a", b"b"]
    assert [path.split("offset=")[1][0] for path in sockets.paths] == ["0", "1", "1"]


def test_refused_attach_ends_handle(sandbox: Sandbox, sockets: Sockets) -> None:
    sockets.scripts = [frames({"type": "error", "code": "invalid_state", "data": "it is paused"})]
    handle = follower(sandbox)
    with pytest.raises(sdk.InvalidStateError, match="paused"):
        handle.wait()
    with pytest.raises(sdk.InvalidStateError, match="disconnected"):
        handle.wait()


def test_stream_is_held_back(sandbox: Sandbox, sockets: Sockets) -> None:
    sent = []

    def flood(connection: ServerConnection) -> None:
        connection.send('{"type": "start", "pid": 3}')
        frame = json.dumps({"type": "stdout", "data": "YWFh" * 16384})
        while True:
            connection.send(frame)
            sent.append(len(frame))

    sockets.scripts = [flood]
    handle = sandbox.commands.stream(["yes"])
    assert handle.pid == 3
    wait_until(lambda: len(sent) >= 20)
    for _ in range(5):
        next(handle)
    # What sockets and queues hold, and no more.
    count = 0
    while len(sent) != count:
        count = len(sent)
        threading.Event().wait(0.2)
    assert sum(sent) < 20_000_000
    handle.disconnect()
    with pytest.raises(StopIteration):
        next(handle)
    with pytest.raises(sdk.InvalidStateError):
        handle.send_stdin("late")


def test_stream_has_input_signals_and_terminal(sandbox: Sandbox, sockets: Sockets) -> None:
    got: list[dict[str, Any]] = []

    def echo(connection: ServerConnection) -> None:
        got.append(json.loads(connection.recv()))
        connection.send('{"type": "start", "pid": 3}')
        for _ in range(3):
            got.append(json.loads(connection.recv()))
        connection.send('{"type": "stdout", "data": "/w=="}')
        connection.send('{"type": "exit", "exit_code": 0}')

    sockets.scripts = [echo]
    with sandbox.commands.stream(
        "cat", pty={"rows": 2, "cols": 3}, stdin=True, timeout=9
    ) as handle:
        handle.resize(sdk.PtySize(4, 5))
        handle.send_stdin(b"\xff")
        handle.close_stdin()
        seen: list[str] = []
        result = handle.wait(on_stdout=seen.append)
    assert (result.stdout_bytes, seen) == (b"\xff", ["\ufffd"])
    assert got[0]["terminal"] == {"rows": 2, "cols": 3}
    assert got[0]["timeout_sec"] == 9
    assert [frame["type"] for frame in got[1:]] == ["resize", "stdin", "stdin_close"]
    assert handle.kill() is False


def test_stream_that_does_not_begin_is_told(sandbox: Sandbox, sockets: Sockets) -> None:
    sockets.scripts = [frames(EXIT)]
    with pytest.raises(sdk.ProtocolError):
        sandbox.commands.stream(["true"])
    sockets.scripts = [frames({"type": "ended", "data": "x"})]
    with pytest.raises(sdk.ProtocolError):
        sandbox.files.watch_dir("/")
    with pytest.raises(ValueError, match="at least one word"):
        sandbox.commands.run([])


def test_watch_ends_with_its_directory(sandbox: Sandbox, sockets: Sockets) -> None:
    begun = {"type": "started"}
    lost = {"type": "lost", "data": "too many"}
    sockets.scripts = [frames(begun, lost, {"type": "ended", "data": "removed"})]
    with sandbox.files.watch_dir("/a") as watch:
        assert [(event.type, event.message) for event in watch] == [("lost", "too many")]
        assert watch.next() is None

    def wait(connection: ServerConnection) -> None:
        connection.send(json.dumps(begun))
        connection.recv()

    sockets.scripts = [wait]
    with sandbox.files.watch_dir("/a") as watch, pytest.raises(sdk.OperationTimeoutError):
        watch.next(0.1)
    sockets.scripts = [frames(begun, {"type": "error", "code": "invalid_state", "data": "paused"})]
    with sandbox.files.watch_dir("/a") as watch, pytest.raises(sdk.InvalidStateError):
        watch.next()
    sockets.scripts = [frames(begun)]
    with sandbox.files.watch_dir("/a") as watch, pytest.raises(sdk.ConnectionBrokenError):
        watch.next()


def cut(connection: ServerConnection) -> None:
    """Answers a few bytes, and ends without a word."""
    connection.send(b"some")
    connection.recv()
    connection.socket.shutdown(socket.SHUT_RDWR)


def test_broken_port_is_reset(sandbox: Sandbox, sockets: Sockets) -> None:
    sockets.scripts = [cut]
    with sandbox.connect_port(80) as connection:
        assert connection.recv(4) == b"some"
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            connection.recv(4)
    assert sockets.paths == ["/v1/sandboxes/sb-1/tunnel?port=80"]


def test_broken_port_is_reset_awaited(sockets: Sockets) -> None:
    sockets.scripts = [cut]

    async def awaited() -> None:
        async with AsyncClient(sockets.url, KEY) as client:
            sandbox = AsyncSandbox("sb-1", client._connection)
            reader, writer = await sandbox.connect_port(80)
            assert await reader.readexactly(4) == b"some"
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read(4)
            writer.close()

    asyncio.run(awaited())


STARTED = {"type": "start", "pid": 3}
FLOOD = b"o" * 20_000_000
INPUT = b"i" * 10_000_000


def write_before_reading(connection: ServerConnection) -> None:
    """A command that writes 20 MB before it reads its input."""
    connection.recv()
    connection.send(json.dumps(STARTED))
    part = base64.b64encode(FLOOD[: len(FLOOD) // 200]).decode()
    for _ in range(200):
        connection.send(json.dumps({"type": "stdout", "data": part}))
    size = 0
    while (frame := json.loads(connection.recv()))["type"] == "stdin":
        size += len(base64.b64decode(frame["data"]))
    connection.send(json.dumps({"type": "exit", "exit_code": 0 if size == len(INPUT) else 1}))


def test_command_may_write_before_reading(sandbox: Sandbox, sockets: Sockets) -> None:
    sockets.scripts = [write_before_reading]
    assert sandbox.commands.run(["x"], stdin=INPUT).stdout_bytes == FLOOD


def test_command_may_write_before_reading_awaited(sockets: Sockets) -> None:
    sockets.scripts = [write_before_reading]

    async def awaited() -> bytes:
        async with AsyncClient(sockets.url, KEY) as client:
            sandbox = AsyncSandbox("sb-1", client._connection)
            return (await sandbox.commands.run(["x"], stdin=INPUT)).stdout_bytes

    assert asyncio.run(awaited()) == FLOOD


def test_port_may_write_before_reading(sandbox: Sandbox, sockets: Sockets) -> None:
    received = []

    def serve_port(connection: ServerConnection) -> None:
        for begin in range(0, len(FLOOD), 100_000):
            connection.send(FLOOD[begin : begin + 100_000])
        while data := connection.recv():
            received.append(len(data))
        connection.send(b"")

    sockets.scripts = [serve_port]
    with sandbox.connect_port(80) as connection:

        def send() -> None:
            connection.sendall(INPUT)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        # Not before both directions are full: the sender is held back by then.
        sender.join(0.5)
        size = 0
        while data := connection.recv(1 << 16):
            size += len(data)
        sender.join()
    assert (size, sum(received)) == (len(FLOOD), len(INPUT))


class HeldBack:
    """A command that never reads its input, until its connection ends."""

    def __init__(self) -> None:
        self.has_started = threading.Event()
        self.has_ended = threading.Event()

    def __call__(self, connection: ServerConnection) -> None:
        connection.recv()
        connection.send(json.dumps(STARTED))
        self.has_started.set()
        # The connection of `websockets` reads on to its queue of 16 frames, then no more.
        connection.protocol_mutex.acquire()
        poll = select.poll()
        poll.register(connection.socket, select.POLLHUP | select.POLLERR)
        if poll.poll(20_000):
            self.has_ended.set()
        connection.protocol_mutex.release()


def test_disconnect_with_held_input_returns(sandbox: Sandbox, sockets: Sockets) -> None:
    script = HeldBack()
    sockets.scripts = [script]
    handle = sandbox.commands.stream(["sleep", "3600"], stdin=True)
    feeder = threading.Thread(target=_feed_until_end, args=(handle,), daemon=True)
    feeder.start()
    feeder.join(0.5)
    assert feeder.is_alive()
    handle.disconnect()
    assert script.has_ended.wait(5)
    feeder.join(5)
    assert not feeder.is_alive()


def _feed_until_end(handle: sdk.CommandHandle) -> None:
    with contextlib.suppress(sdk.WrennError):
        handle.send_stdin(b"i" * 50_000_000)


def test_cancel_with_held_input_returns(sockets: Sockets) -> None:
    script = HeldBack()
    sockets.scripts = [script]

    async def awaited() -> None:
        async with AsyncClient(sockets.url, KEY) as client:
            sandbox = AsyncSandbox("sb-1", client._connection)
            run = sandbox.commands.run(["sleep", "3600"], stdin=b"i" * 50_000_000, timeout=0)
            task = asyncio.ensure_future(run)
            await asyncio.to_thread(script.has_started.wait, 10)
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(asyncio.wait_for(awaited(), 20))
    assert script.has_ended.wait(5)


def test_command_may_end_before_its_input(sandbox: Sandbox, sockets: Sockets) -> None:
    def end(connection: ServerConnection) -> None:
        connection.recv()
        connection.send(json.dumps(STARTED))
        connection.recv()
        connection.send(json.dumps(EXIT))

    sockets.scripts = [end]
    assert sandbox.commands.run(["true"], stdin=b"i" * 50_000_000).exit_code == 0


class Idle:
    """A port that takes all it gets, and never ends its own direction."""

    def __init__(self) -> None:
        self.received = b""
        self.has_ended = threading.Event()

    def __call__(self, connection: ServerConnection) -> None:
        while data := connection.recv():
            assert isinstance(data, bytes)
            self.received += data
        with pytest.raises(websockets.ConnectionClosed):
            connection.recv()
        self.has_ended.set()


def test_closed_port_ends_its_connection(sandbox: Sandbox, sockets: Sockets) -> None:
    port = Idle()
    sockets.scripts = [port]
    connection = sandbox.connect_port(80)
    file = connection.makefile("wb")
    file.write(b"written")
    connection.close()
    file.close()
    assert port.has_ended.wait(5)
    assert port.received == b"written"


def test_closed_port_ends_its_connection_awaited(sockets: Sockets) -> None:
    port = Idle()
    sockets.scripts = [port]

    async def awaited() -> None:
        async with AsyncClient(sockets.url, KEY) as client:
            sandbox = AsyncSandbox("sb-1", client._connection)
            _, writer = await sandbox.connect_port(80)
            writer.write(b"written")
            writer.close()
            assert await asyncio.to_thread(port.has_ended.wait, 5)

    asyncio.run(awaited())
    assert port.received == b"written"


def test_cancelled_command_closes_connection(sockets: Sockets) -> None:
    started = threading.Event()
    closed = threading.Event()

    def wait(connection: ServerConnection) -> None:
        connection.recv()
        connection.send('{"type": "start", "pid": 3}')
        started.set()
        try:
            connection.recv()
        except websockets.ConnectionClosed:
            closed.set()

    sockets.scripts = [wait]

    async def awaited() -> None:
        async with AsyncClient(sockets.url, KEY) as client:
            sandbox = AsyncSandbox("sb-1", client._connection)
            task = asyncio.ensure_future(sandbox.commands.run(["sleep", "60"]))
            await asyncio.to_thread(started.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(awaited())
    assert closed.wait(5)


def test_refused_socket_has_its_error(fake: FakeServer) -> None:
    body = {"error": {"code": "not_found", "message": "no such sandbox"}}
    fake.answers = [Answer(404, body, (("x-request-id", "r1"),))]
    with Client(fake.url, KEY) as client, pytest.raises(sdk.NotFoundError) as caught:
        Sandbox("sb-1", client._connection).commands.run("true")
    assert caught.value.request_id == "r1"

    async def awaited() -> None:
        async with AsyncClient(fake.url, KEY) as client:
            with pytest.raises(sdk.NotFoundError):
                await AsyncSandbox("sb-1", client._connection).connect_port(1)

    asyncio.run(awaited())


def test_redirect_of_socket_takes_key_nowhere(fake: FakeServer, sockets: Sockets) -> None:
    elsewhere = sockets.url.replace("http", "ws") + "/elsewhere"
    fake.answers = [Answer(307, None, (("location", elsewhere),))]
    with Client(fake.url, KEY) as client, pytest.raises(sdk.ProtocolError, match="redirects to"):
        Sandbox("sb-1", client._connection).commands.run("true")

    async def awaited() -> None:
        async with AsyncClient(fake.url, KEY) as client:
            with pytest.raises(sdk.ProtocolError, match="redirects to"):
                await AsyncSandbox("sb-1", client._connection).commands.run("true")

    asyncio.run(awaited())
    assert sockets.paths == []


def test_socket_trusts_own_authority(tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    sockets = Sockets(context)
    sockets.scripts = [frames({"type": "start", "pid": 3}, EXIT)]
    url = sockets.url.replace("http://127.0.0.1", "https://localhost")
    try:
        with Client(url, KEY, ca_file=str(tmp_path / "ca.pem")) as client:
            assert Sandbox("sb-1", client._connection).commands.run("true").exit_code == 0
        with Client(url, KEY) as client, pytest.raises(sdk.UnreachableError):
            Sandbox("sb-1", client._connection).commands.run("true")
    finally:
        sockets.stop()


def hold(connection: ServerConnection) -> None:
    """Says nothing until the client is gone."""
    for _ in connection:
        pass


def test_silent_peer_is_noticed(
    sandbox: Sandbox, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wrenn_sandbox._io_async.SILENCE", 0.4)

    def ping(connection: ServerConnection) -> None:
        for _ in range(10):
            connection.ping()
            time.sleep(0.1)
        frames({"type": "start", "pid": 7}, EXIT)(connection)

    # Pings of the server are a sign of life.
    sockets.scripts = [ping]
    assert sandbox.commands.run("true").exit_code == 0
    sockets.scripts = [hold]
    with pytest.raises(sdk.ConnectionBrokenError, match=r"nothing came .* for 0\.4 seconds"):
        sandbox.commands.run("true")


def test_first_frame_of_run_has_limit(
    sandbox: Sandbox, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wrenn_sandbox._sync.handles.FIRST_FRAME_TIMEOUT", 0.3)
    sockets.scripts = [hold]
    with pytest.raises(sdk.OperationTimeoutError):
        sandbox.commands.run("true")


def test_cancelled_attach_closes_connection(sockets: Sockets) -> None:
    ended = threading.Event()

    def attach(connection: ServerConnection) -> None:
        hold_until_end(connection)
        ended.set()

    def hold_until_end(connection: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            hold(connection)

    sockets.scripts = [attach]

    async def awaited() -> None:
        async with AsyncClient(sockets.url, KEY) as client:
            commands = AsyncSandbox("sb-1", client._connection).commands
            handle = AsyncBackgroundHandle(commands, CommandInfo.from_json(COMMAND), 0)
            task = asyncio.ensure_future(handle.wait())
            while handle._socket is None:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(ended.wait, 5)

    asyncio.run(awaited())


def test_character_that_breaks_off_is_told(sandbox: Sandbox, sockets: Sockets) -> None:
    half = base64.b64encode("é".encode()[:1]).decode()
    script = [{"type": "start", "pid": 7}, {"type": "stdout", "data": half}, EXIT]
    sockets.scripts = [frames(*script)]
    parts: list[str] = []
    assert sandbox.commands.run("x", on_stdout=parts.append).stdout == "\ufffd"
    assert "".join(parts) == "\ufffd"
    with sandbox.commands.stream("x", pty=sdk.PtySize(1, 2)) as terminal:
        terminal.wait(on_stdout=parts.append)
    assert "".join(parts) == "\ufffd" * 2
    with sandbox.commands.stream("x") as handle:
        assert "".join(piece.stdout or "" for piece in handle) == "\ufffd"
