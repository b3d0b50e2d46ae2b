"""Retries, limits of time and errors, against a server that does what the test says."""

from __future__ import annotations

import asyncio
import pathlib
import pickle
import ssl
import threading
import time
from typing import Any

import pytest
import trustme
from fake import CUT, SANDBOX, Answer, FakeServer, Request, error
from test_surface import sample

import wrenn_sandbox as sdk
from wrenn_sandbox import AsyncClient, AsyncSandbox, Client, Sandbox

KEY = "wrn_test"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between attempts are noted, and take no time."""
    pauses: list[float] = []

    def note(seconds: float) -> None:
        pauses.append(seconds)

    async def note_async(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("wrenn_sandbox._io_sync.sleep", note)
    monkeypatch.setattr("wrenn_sandbox._io_async.sleep", note_async)
    return pauses


@pytest.fixture
def sandbox(fake: FakeServer) -> Any:
    with Client(fake.url, KEY) as client:
        yield Sandbox("sb-1", client._connection)


def test_pauses_grow(sandbox: Sandbox, fake: FakeServer, no_pauses: list[float]) -> None:
    fake.answers = [error(503, "host_unavailable")]
    with pytest.raises(sdk.HostUnavailableError) as caught:
        sandbox.get_info()
    assert caught.value.status == 503
    assert len(fake.requests) == 4
    least = [0.2, 0.4, 0.8]
    assert all(low <= pause <= low * 1.25 for low, pause in zip(least, no_pauses, strict=True))


def test_retry_after_beyond_limit_is_told(
    sandbox: Sandbox, fake: FakeServer, no_pauses: list[float]
) -> None:
    fake.answers = [error(429, "resource_exhausted", retry_after="7"), Answer(200, SANDBOX)]
    assert sandbox.is_running()
    assert no_pauses == [7.0]
    fake.answers = [error(429, "resource_exhausted", retry_after="3600")]
    with pytest.raises(sdk.ResourceExhaustedError):
        sandbox.get_info()
    assert len(fake.requests) == 3


def test_create_keeps_idempotency_key(fake: FakeServer) -> None:
    fake.answers = [CUT, error(503, "host_unavailable"), Answer(201, SANDBOX)]
    with Client(fake.url, KEY) as client:
        assert Sandbox.create(client=client).sandbox_id == SANDBOX["id"]
        keys = {request.headers["idempotency-key"] for request in fake.requests}
        assert len(fake.requests) == 3
        assert len(keys) == 1
        Sandbox.create(client=client, idempotency_key="mine")
        assert fake.requests[-1].headers["idempotency-key"] == "mine"


def test_changes_are_not_sent_twice(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [CUT]
    for change in (
        lambda: sandbox.create_snapshot("a"),
        lambda: sandbox.update(labels={}),
        lambda: sandbox.files.write("a", b"b"),
        lambda: sandbox.files.rename("a", "b"),
        lambda: sandbox.rollback("a"),
        lambda: sandbox.undo(1),
    ):
        fake.requests.clear()
        with pytest.raises(sdk.ConnectionBrokenError):
            change()
        assert len(fake.requests) == 1


def test_repeated_delete_has_succeeded(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [CUT, error(404, "not_found")]
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    fake.answers = [Answer(502, b"of a proxy"), error(404, "not_found")]
    assert sandbox.checkpoints.delete("a") is True
    # Nothing was done at the first attempt.
    fake.answers = [error(429, "resource_exhausted"), error(404, "not_found")]
    assert sandbox.kill() is False


def test_refused_socket_is_opened_again(
    sandbox: Sandbox, fake: FakeServer, no_pauses: list[float]
) -> None:
    fake.answers = [error(429, "resource_exhausted", retry_after="7")]
    with pytest.raises(sdk.ResourceExhaustedError):
        sandbox.commands.run("true")
    assert no_pauses == [7.0] * 3
    fake.requests.clear()
    fake.answers = [Answer(502, b"<h1>of a proxy</h1>")]
    with pytest.raises(sdk.AgentError):
        sandbox.commands.run("true")
    assert len(fake.requests) == 4


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (409, "conflict"),
        (410, "expired"),
        (415, "unsupported_media_type"),
        (507, "insufficient_storage"),
        (418, "internal_error"),
    ],
)
def test_foreign_answer_has_code_of_status(
    sandbox: Sandbox, fake: FakeServer, status: int, code: str
) -> None:
    fake.answers = [Answer(status, b"<h1>of a proxy</h1>")]
    with pytest.raises(sdk.WrennError) as caught:
        sandbox.get_info()
    assert caught.value.code == code


def test_errors_survive_pickling() -> None:
    result = sdk.CommandResult(b"out", b"bad\n", 3)
    errors: list[sdk.WrennError] = [
        sdk.CommandExitError(result),
        sdk.CommandNotStartedError("no such program", exit_code=127, status=400),
        sdk.OutputLostError(5),
        sdk.OperationTimeoutError("too slow", status=504, request_id="r-1"),
    ]
    for known in errors:
        found = pickle.loads(pickle.dumps(known))
        assert type(found) is type(known)
        assert str(found) == str(known)
        assert vars(found) == vars(known)


def test_call_has_limit_of_its_own(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [Answer(200, SANDBOX, delay=0.5)]
    hurried = sandbox.with_options(request_timeout=0.1)
    with pytest.raises(sdk.OperationTimeoutError):
        hurried.get_info()
    assert sandbox.get_info().id == SANDBOX["id"]
    with Client(fake.url, KEY) as client, pytest.raises(sdk.OperationTimeoutError):
        client.with_options(request_timeout=0.1).webhooks.get("w")


def test_wait_ends_with_request_timeout(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [error(504, "timeout")]
    begin = time.monotonic()
    with pytest.raises(sdk.OperationTimeoutError):
        sandbox.with_options(request_timeout=0.2).wait("paused")
    assert time.monotonic() - begin < 10


def test_upload_ends_with_request_timeout(sandbox: Sandbox, fake: FakeServer) -> None:
    begun = Answer(201, None, (("location", "/v1/sandboxes/sb-1/files/uploads/u1"),))
    arrived = Answer(200, None, (("upload-offset", "1"),))
    fake.answers = [begun, Answer(204, delay=0.6), arrived, Answer(204)]
    with pytest.raises(sdk.OperationTimeoutError):
        sandbox.with_options(request_timeout=0.3).files.upload(b"abc", "/a")
    assert [request.method for request in fake.requests if request.method == "PATCH"] == ["PATCH"]


def test_silent_event_stream_connects_again(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wrenn_sandbox._sync.events.SILENCE", 0.2)
    expired = b'event: error\ndata: {"error": {"code": "expired", "message": "too old"}}\n\n'
    fake.answers = [Answer(200, b": hello\n\n", pause=5), Answer(200, expired)]
    begin = time.monotonic()
    with (
        Client(fake.url, KEY) as client,
        client.events.stream() as events,
        pytest.raises(sdk.ExpiredError),
    ):
        next(events)
    assert time.monotonic() - begin < 4


def test_list_of_events_has_limit(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    event = sample({"$ref": "#/components/schemas/Event"})
    monkeypatch.setattr("wrenn_sandbox._sync.events.PAGE", 2)
    pages = (("x-next-cursor", "2"),)
    fake.answers = [Answer(200, [event] * 2, pages), Answer(200, [event], pages)]
    with Client(fake.url, KEY) as client:
        assert len(list(client.events.list(limit=3))) == 3
    assert [request.path for request in fake.requests] == [
        "/v1/events?limit=2",
        "/v1/events?limit=1&cursor=2",
    ]


def test_unreachable_server_is_tried_again(no_pauses: list[float]) -> None:
    with (
        Client("http://127.0.0.1:1", KEY) as client,
        pytest.raises(sdk.UnreachableError, match="wrenn up"),
    ):
        client.health()
    assert len(no_pauses) == 3
    with (
        Client("http://127.0.0.1:1", KEY) as client,
        pytest.raises(sdk.UnreachableError),
    ):
        Sandbox("sb-1", client._connection).commands.run("true")
    assert len(no_pauses) == 6


def test_slow_answer_times_out(fake: FakeServer) -> None:
    fake.answers = [Answer(200, SANDBOX, delay=5)]
    with Client(fake.url, KEY, request_timeout=0.3) as client:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            Sandbox.get("sb-1", client=client)
        assert time.monotonic() - begin < 4

    async def awaited() -> None:
        async with AsyncClient(fake.url, KEY, request_timeout=0.3) as client:
            with pytest.raises(sdk.OperationTimeoutError):
                await AsyncSandbox.get("sb-1", client=client)

    asyncio.run(awaited())


def test_cut_body_is_read_again(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [Answer(200, b"x" * 100, is_cut=True), Answer(200, b"whole")]
    assert sandbox.files.read("a") == "whole"
    fake.answers = [Answer(200, b"x" * 100, is_cut=True)]
    with pytest.raises(sdk.ConnectionBrokenError), sandbox.files.read("a", "stream") as stream:
        stream.read()


def test_stream_of_caller_is_sent_once(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [error(503, "host_unavailable"), Answer(204)]
    with pytest.raises(sdk.HostUnavailableError):
        sandbox.files.write("a", iter([b"1", b"2"]))
    sandbox.files.write("a", iter([b"1", b"2"]))
    assert b"\r\n\r\n12\r\n--" in fake.requests[-1].body
    fake.answers = [error(503, "host_unavailable"), Answer(204)]
    sandbox.files.write("a", "text", user="u", mode="0600")
    assert b'name="mode"\r\n\r\n0600\r\n' in fake.requests[-1].body


def test_answers_out_of_order_stay_apart(fake: FakeServer) -> None:
    def slow_first(request: Request) -> Answer:
        number = int(request.path.rsplit("-", 1)[-1])
        return Answer(200, {**SANDBOX, "id": f"sb-{number}"}, delay=(5 - number) * 0.05)

    fake.answers = [slow_first]

    async def awaited() -> list[str]:
        async with AsyncClient(fake.url, KEY) as client:
            gets = [AsyncSandbox.get(f"sb-{number}", client=client) for number in range(5)]
            return [sandbox.sandbox_id for sandbox in await asyncio.gather(*gets)]

    assert asyncio.run(awaited()) == [f"sb-{number}" for number in range(5)]
    with Client(fake.url, KEY) as client:
        found: dict[int, str] = {}

        def get(number: int) -> None:
            found[number] = Sandbox.get(f"sb-{number}", client=client).sandbox_id

        threads = [threading.Thread(target=get, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: f"sb-{number}" for number in range(5)}


def test_cancelled_call_ends_at_once(fake: FakeServer) -> None:
    fake.answers = [Answer(200, SANDBOX, delay=0.5)]

    async def awaited() -> None:
        async with AsyncClient(fake.url, KEY) as client:
            task = asyncio.ensure_future(AsyncSandbox.get("sb-1", client=client))
            while not fake.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            fake.answers = [Answer(200, SANDBOX)]
            assert (await AsyncSandbox.get("sb-1", client=client)).sandbox_id == SANDBOX["id"]

    asyncio.run(awaited())


def test_errors_carry_what_server_said(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [error(409, "invalid_state", "it is paused", x_request_id="req-1")]
    with pytest.raises(sdk.InvalidStateError, match="it is paused") as caught:
        sandbox.pause()
    assert (caught.value.code, caught.value.request_id) == ("invalid_state", "req-1")
    fake.answers = [error(418, "new_code", "of a newer server")]
    with pytest.raises(sdk.WrennError) as other:
        sandbox.pause()
    assert (other.value.code, type(other.value)) == ("new_code", sdk.WrennError)
    fake.answers = [Answer(404, b"<h1>no</h1>")]
    with pytest.raises(sdk.NotFoundError, match="is it a Wrenn server"):
        sandbox.get_info()
    fake.answers = [Answer(200, b"no json")]
    with pytest.raises(sdk.ProtocolError):
        sandbox.get_info()
    fake.answers = [Answer(200, {"id": "sb-1"})]
    with pytest.raises(sdk.ProtocolError, match="SandboxInfo"):
        sandbox.get_info()
    fake.answers = [Answer(500, b"x" * 100_000)]
    with pytest.raises(sdk.InternalServerError):
        sandbox.get_info()


def test_odd_names_stay_in_place(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [Answer(204)]
    sandbox.checkpoints.delete("../a?b")
    assert fake.requests[0].path == "/v1/sandboxes/sb-1/checkpoints/..%2Fa%3Fb"
    for name in ("", ".", ".."):
        with pytest.raises(sdk.NotFoundError):
            sandbox.rollback(name)
    assert len(fake.requests) == 1


def test_redirect_takes_key_nowhere(fake: FakeServer) -> None:
    fake.answers = [Answer(302, {}, (("location", "http://127.0.0.1:1/"),))]
    with Client(fake.url, KEY) as client, pytest.raises(sdk.ProtocolError):
        client.health()
    assert len(fake.requests) == 1


def test_requests_go_through_proxy(fake: FakeServer) -> None:
    fake.answers = [Answer(200, {"status": "ok", "version": "1"})]
    with Client("http://far.example", KEY, proxy=fake.url, headers={"x-more": "1"}) as client:
        assert client.health().version == "1"
    assert fake.requests[0].path == "http://far.example/health"
    assert fake.requests[0].headers["x-more"] == "1"
    assert fake.requests[0].headers["x-api-key"] == KEY


def test_own_authority_is_trusted(fake: FakeServer, tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    fake.server.socket = context.wrap_socket(fake.server.socket, server_side=True)
    fake.answers = [Answer(200, {"status": "ok", "version": "1"})]
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    url = fake.url.replace("http://127.0.0.1", "https://localhost")
    with Client(url, KEY, ca_file=str(ca_file)) as client:
        assert client.health().status == "ok"
    with Client(url, KEY) as client, pytest.raises(sdk.UnreachableError):
        client.health()


def test_lists_turn_pages(fake: FakeServer) -> None:
    next_page = (("x-next-cursor", "2"),)
    entry = {**SANDBOX, "network": {"allow_out": ["a"]}, "new_field": 1}
    fake.answers = [Answer(200, [entry], next_page), Answer(200, [entry]), Answer(200, [])]
    with Client(fake.url, KEY) as client:
        pages = Sandbox.list(labels={"a": "b", "c": None}, status=["running"], client=client)
        found = list(pages)
        assert [info.id for info in found] == [SANDBOX["id"]] * 2
        assert found[0].network == sdk.NetworkRules(allow_out=["a"])
        with pytest.raises(sdk.InvalidStateError):
            pages.next_items()
    assert "label=a%3Db&label=c&status=running" in fake.requests[0].path
    assert "cursor=2" in fake.requests[1].path


def test_default_client_is_shared(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.answers = [Answer(200, SANDBOX)]
    one = Sandbox.get("sb-1", api_url=fake.url, api_key=KEY)
    two = Sandbox.get("sb-1", api_url=fake.url, api_key=KEY)
    other = Sandbox.get("sb-1", api_url=fake.url, api_key="wrn_other")
    assert one._connection is two._connection
    assert one._connection is not other._connection
    one._connection.close()
    other._connection.close()


def test_wait_asks_again(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [error(504, "timeout"), Answer(200, {**SANDBOX, "status": "paused"})]
    assert sandbox.wait("paused").status == "paused"
    assert "timeout_sec=300" in fake.requests[0].path
    fake.answers = [error(504, "timeout")]
    with pytest.raises(sdk.OperationTimeoutError):
        sandbox.wait_deleted(timeout=0.2)


def test_update_tells_absent_from_none(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [Answer(200, SANDBOX)]
    sandbox.update(name=None, ends_at=None)
    assert fake.requests[-1].body == b'{"name": null, "ends_at": null}'
    sandbox.update(auto_resume=False)
    assert fake.requests[-1].body == b'{"auto_resume": false}'


def test_create_sends_all_options(fake: FakeServer) -> None:
    fake.answers = [Answer(201, SANDBOX)]
    with Client(fake.url, KEY) as client:
        Sandbox.create(
            "image",
            metadata={"a": "b"},
            allow_internet_access=False,
            network=sdk.NetworkRules(allow_out=["1.1.1.1"]),
            auto_checkpoint=sdk.AutoCheckpoint(every_sec=5),
            start_command=sdk.SupervisedCommand(cmd="serve", restart="always"),
            client=client,
        )
    body = fake.requests[-1].body
    assert b'"labels": {"a": "b"}' in body
    assert b'"network": {"allow_out": ["1.1.1.1"], "deny_out": [], "allow_internet": false}' in body
    assert b'"auto_checkpoint": {"every_sec": 5}' in body
    assert b'"start_command": {"cmd": "serve", ' in body
    assert b'"restart": "always"' in body


def test_event_stream_ends_for_good(fake: FakeServer) -> None:
    body = b'event: error\ndata: {"error": {"code": "expired", "message": "too old"}}\n\n'
    fake.answers = [Answer(200, b": hello\n\n"), error(502, "agent_error"), Answer(200, body)]
    with Client(fake.url, KEY) as client:
        events = client.events.stream(since="2026-01-01T00:00:00Z")
        with pytest.raises(sdk.ExpiredError, match="too old"):
            next(events)
        events.close()
        assert list(events) == []
    assert len(fake.requests) == 3


def test_broken_search_is_no_result(sandbox: Sandbox, fake: FakeServer) -> None:
    fake.answers = [Answer(200, b'{"type":"match","path":"/a","kind":"file"}\n')]
    with pytest.raises(sdk.ConnectionBrokenError, match="broke off"):
        sandbox.files.search("/", name="a")


def test_diff_has_changes_and_summary(sandbox: Sandbox, fake: FakeServer) -> None:
    start = b'{"type":"start","from":"a","from_unflushed":true}\n{"type":"change","path":"/a"}\n'
    end = b'{"type":"end","compared":5,"unreadable":0,"incomplete":"time"}\n'
    fake.answers = [Answer(200, start + end)]
    found = sandbox.diff()
    assert [change.path for change in found.changes] == ["/a"]
    assert (found.from_, found.to, found.from_unflushed) == ("a", None, True)
    assert (found.compared, found.incomplete) == (5, "time")
    fake.answers = [Answer(200, start)]
    with pytest.raises(sdk.ConnectionBrokenError, match="broke off"):
        sandbox.diff()


def test_upload_gives_up_what_is_refused(
    sandbox: Sandbox, fake: FakeServer, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    begun = Answer(201, None, (("location", "/v1/sandboxes/sb-1/files/uploads/u1"),))
    fake.answers = [begun, error(507, "insufficient_storage"), Answer(204)]
    with pytest.raises(sdk.InsufficientStorageError):
        sandbox.files.upload(tmp_path / "a", "/a", user="u", mode="0600")
    methods = [request.method for request in fake.requests]
    assert methods == ["POST", "PATCH", "DELETE"]
    fake.answers = [Answer(201)]
    with pytest.raises(sdk.ProtocolError, match="location"), open(tmp_path / "a", "rb") as file:
        sandbox.files.upload(file, "/a")


def test_download_keeps_old_file(
    sandbox: Sandbox, fake: FakeServer, tmp_path: pathlib.Path
) -> None:
    local = tmp_path / "a"
    local.write_text("old")
    fake.answers = [Answer(200, b"x" * 1000, is_cut=True)]
    with pytest.raises(sdk.ConnectionBrokenError):
        sandbox.files.download("/a", local)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert local.read_text() == "old"
    fake.answers = [Answer(200, b"new")]
    sandbox.files.download("/a", str(local))
    assert local.read_text() == "new"
