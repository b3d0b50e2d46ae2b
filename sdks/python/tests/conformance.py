"""Runs the scenarios of sdks/conformance, with blocking or with awaited calls.

One runner for both: what a call returns is awaited if it can be.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import inspect
import io
import json
import pathlib
import re
import secrets
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

import wrenn_sandbox as sdk

SCENARIOS = pathlib.Path(__file__).parents[2] / "conformance" / "scenarios"
LIMIT = 30
"""Seconds that a read of the runner waits."""

ABSENT = object()


def load() -> list[dict[str, Any]]:
    """All scenarios, each with the name of its file in `file`."""
    files = sorted(SCENARIOS.glob("*.json"))
    return [
        {**scenario, "file": file.stem}
        for file in files
        for scenario in json.loads(file.read_text())
    ]


def pattern(size: int) -> bytes:
    unit = bytes(range(251))
    return (unit * (size // 251 + 1))[:size]


def plain(value: Any) -> Any:
    """A result as scenarios have it."""
    if isinstance(value, sdk.CommandResult):
        return {
            "stdout": value.stdout,
            "stderr": value.stderr,
            "stdout_bytes": value.stdout_bytes,
            "stderr_bytes": value.stderr_bytes,
            "exit_code": value.exit_code,
        }
    if isinstance(value, sdk.WatchEvent):
        fields = dataclasses.asdict(value)
        return {**fields, "from": fields["from_path"]}
    if isinstance(value, sdk.DiffResult):
        changes = [change.to_json() for change in value.changes]
        fields = dataclasses.asdict(dataclasses.replace(value, changes=[]))
        return {**fields, "from": fields["from_"], "changes": changes}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def mismatch(expected: Any, actual: Any, place: str = "result") -> str | None:
    """What differs, or None."""
    if isinstance(expected, dict) and len(expected) == 1 and next(iter(expected))[0] == "$":
        ((name, argument),) = expected.items()
        return (
            None
            if matches(name, argument, actual)
            else f"{place}: {actual!r:.500} is not {expected}"
        )
    if actual is ABSENT:
        return f"{place} is absent, not {expected!r}"
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            return f"{place}: {actual!r} is no object"
        found = (
            mismatch(value, actual.get(name, ABSENT), f"{place}.{name}")
            for name, value in expected.items()
        )
        return next((text for text in found if text), None)
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            return f"{place}: {actual!r:.500} is not a list of {len(expected)}"
        pairs = enumerate(zip(expected, actual, strict=True))
        found = (mismatch(one, other, f"{place}.{i}") for i, (one, other) in pairs)
        return next((text for text in found if text), None)
    if type(expected) is not type(actual) or expected != actual:
        return f"{place}: {actual!r:.500} is not {expected!r:.500}"
    return None


def matches(name: str, argument: Any, actual: Any) -> bool:
    if name == "$absent":
        return actual is None or actual is ABSENT
    if actual is None or actual is ABSENT:
        return False
    if name == "$any":
        return True
    if name == "$contains":
        if isinstance(actual, str):
            return argument in actual
        return any(mismatch(argument, item) is None for item in actual)
    if name == "$matches":
        return re.search(argument, actual) is not None
    if name == "$size":
        return bool(len(actual) == argument)
    if name == "$least":
        return bool(actual >= argument)
    if name == "$bytes":
        return bool(actual == base64.b64decode(argument))
    if name == "$pattern":
        return bool(actual == pattern(argument))
    raise AssertionError(f"an unknown pattern: {name}")


async def done(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def entries(value: Any) -> list[Any]:
    if hasattr(value, "__aiter__"):
        return [item async for item in value]
    return list(value)


async def next_of(iterator: Any) -> Any:
    """The next item; None at the end."""
    if hasattr(iterator, "__anext__"):
        try:
            return await asyncio.wait_for(iterator.__anext__(), LIMIT)
        except StopAsyncIteration:
            return None
    return next(iterator, None)


class Runner:
    """Carries out one scenario."""

    def __init__(
        self, api_url: str, api_key: str, faults_url: str, shared_id: str, is_async: bool
    ) -> None:
        self.api = (api_url, api_key)
        self.faults_url = faults_url
        self.shared_id = shared_id
        self.is_async = is_async
        self.bound: dict[str, Any] = {}
        self.output: dict[int, bytes] = {}
        self.cleanups: list[Any] = []

    def kind(self, name: str) -> Any:
        return getattr(sdk, f"Async{name}" if self.is_async else name)

    async def run(self, scenario: dict[str, Any]) -> None:
        url = self.faults_url if scenario.get("through") == "faults" else self.api[0]
        if scenario.get("through") == "faults":
            self.set_faults([])
        client = self.kind("Client")(url, self.api[1])
        self.bound = {"client": client, "run": secrets.token_hex(4)}
        try:
            if scenario.get("uses") == "shared":
                self.bound["sandbox"] = await done(
                    self.kind("Sandbox").get(self.shared_id, client=client)
                )
                self.bound["dir"] = f"/tmp/{self.bound['run']}"
                await done(self.bound["sandbox"].files.make_dir(self.bound["dir"]))
            for number, step in enumerate(scenario["steps"]):
                await self.step(step, f"step {number + 1}, {step['do']}")
        finally:
            if scenario.get("through") == "faults":
                self.set_faults([])
            for cleanup in reversed(self.cleanups):
                await done(cleanup())
            await done(client.aclose() if self.is_async else client.close())

    def set_faults(self, faults: list[Any]) -> None:
        httpx.put(f"{self.faults_url}/faults", json={"faults": faults}).raise_for_status()

    async def step(self, step: dict[str, Any], place: str) -> None:
        inputs = self.resolved(step.get("with", {}))
        expected_error = step.get("error")
        try:
            result = await self.do(step["do"], step.get("on"), inputs)
        except sdk.WrennError as error:
            told = {name: plain(value) for name, value in vars(error).items()}
            told["code"] = error.code
            wanted = {"code": expected_error} if isinstance(expected_error, str) else expected_error
            if wanted is None:
                raise
            text = mismatch(self.resolved(wanted), told, "error")
            assert text is None, f"{place}: {text}"
            return
        assert expected_error is None, (
            f"{place} did not fail with {expected_error}: {result!r:.300}"
        )
        if "as" in step:
            self.bound[step["as"]] = result
        if "expect" in step:
            text = mismatch(self.resolved(step["expect"]), plain(result))
            assert text is None, f"{place}: {text}"

    def resolved(self, value: Any) -> Any:
        if isinstance(value, dict):
            if "$bytes" in value and len(value) == 1:
                return base64.b64decode(value["$bytes"])
            if "$pattern" in value and len(value) == 1:
                return pattern(value["$pattern"])
            return {name: self.resolved(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.resolved(item) for item in value]
        if not isinstance(value, str):
            return value
        whole = re.fullmatch(r"\$\{([\w.]+)\}", value)
        if whole:
            return self.lookup(whole.group(1))
        return re.sub(r"\$\{([\w.]+)\}", lambda found: str(self.lookup(found.group(1))), value)

    def lookup(self, path: str) -> Any:
        name, *rest = path.split(".")
        value = self.bound[name]
        for part in rest:
            if part.isdigit():
                value = value[int(part)]
            else:
                value = value[part] if isinstance(value, dict) else getattr(value, part)
        return value

    async def do(self, operation: str, on: str | None, inputs: dict[str, Any]) -> Any:
        group, _, name = operation.rpartition(".")
        own = getattr(self, f"do_{operation.replace('.', '_')}", None)
        if group in ("handle", "watch", "stream") or own is not None:
            target = self.lookup(on or "sandbox") if on or "sandbox" in self.bound else None
            if own is not None:
                return await own(target, **inputs)
            return await done(getattr(target, name)(**inputs))
        if group in ("Sandbox", "Template"):
            return await self.do_static(self.kind(group), name, inputs)
        target = self.lookup(on) if on else self.bound.get("sandbox")
        if operation in ("health", "openapi", "get_host_metrics") or group in (
            "events",
            "webhooks",
        ):
            target = self.bound["client"]
        if group:
            target = getattr(target, group)
        return await self.do_method(target, operation, name, inputs)

    async def do_static(self, kind: Any, name: str, inputs: dict[str, Any]) -> Any:
        result = getattr(kind, name)(client=self.bound["client"], **inputs)
        if name == "list" and kind is self.kind("Sandbox"):
            return await entries(result)
        result = await done(result)
        if name in ("create", "get_or_create"):
            self.cleanups.append(result.kill)
        return result

    async def do_method(
        self, target: Any, operation: str, name: str, inputs: dict[str, Any]
    ) -> Any:
        method = getattr(target, name)
        if operation in ("files.upload", "files.download"):
            return await self.transfer(method, operation, inputs)
        if operation == "pty.create":
            inputs["size"] = sdk.PtySize(**inputs["size"])
        if operation == "files.write_files":
            inputs["files"] = [sdk.WriteEntry(**entry) for entry in inputs["files"]]
        if operation == "diff" and "from" in inputs:
            inputs["from_"] = inputs.pop("from")
        if operation == "files.rename":
            return await done(method(**inputs))
        result = method(**inputs)
        if operation in ("files.scan", "events.list", "webhooks.list_deliveries"):
            return await entries(result)
        result = await done(result)
        if operation == "get_logs" and not inputs.get("follow"):
            return await entries(result)
        if operation == "files.read_archive" or inputs.get("format") == "stream":
            return b"".join(await entries(result))
        if operation == "fork":
            self.cleanups += [child.kill for child in result]
        if operation == "webhooks.create":
            self.cleanups.append(lambda: self.bound["client"].webhooks.delete(result.id))
        if operation == "create_snapshot":
            self.cleanups.append(
                lambda: self.kind("Sandbox").delete_snapshot(
                    result.name, client=self.bound["client"]
                )
            )
        if isinstance(result, sdk.AsyncCommandHandle | sdk.CommandHandle):
            self.cleanups.append(result.disconnect)
            if result.id is not None:
                self.cleanups.append(result.kill)
        return result

    async def transfer(self, method: Any, operation: str, inputs: dict[str, Any]) -> Any:
        if operation == "files.upload":
            return await done(method(inputs.pop("data"), **inputs))
        buffer = io.BytesIO()
        await done(method(inputs["path"], buffer))
        return buffer.getvalue()

    async def do_handle_read_until(self, handle: Any, text: str) -> str:
        while text not in self.output.get(id(handle), b"").decode(errors="replace"):
            output = await next_of(handle)
            assert output is not None, (
                f"the end came before {text!r}: {self.output.get(id(handle))!r}"
            )
            part = output.pty or (output.stdout or "").encode() + (output.stderr or "").encode()
            self.output[id(handle)] = self.output.get(id(handle), b"") + part
        return self.output[id(handle)].decode(errors="replace")

    async def do_handle_resize(self, handle: Any, size: dict[str, int]) -> None:
        await done(handle.resize(sdk.PtySize(**size)))

    async def do_watch_next(self, watch: Any, match: dict[str, Any]) -> Any:
        while True:
            event = plain(await done(watch.next(LIMIT)))
            assert event is not None, f"the watch ended before {match}"
            if mismatch(match, event) is None:
                return event

    async def do_stream_next(self, stream: Any, match: dict[str, Any]) -> Any:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            entry = plain(await next_of(stream))
            assert entry is not None, f"the stream ended before {match}"
            if mismatch(match, entry) is None:
                return entry
        raise AssertionError(f"{match} does not come")

    async def do_watch_close(self, watch: Any) -> None:
        await done(watch.stop())

    async def do_stream_close(self, stream: Any) -> None:
        await done(stream.aclose() if self.is_async else stream.close())

    async def do_port_exchange(self, sandbox: Any, port: int, data: Any) -> bytes:
        payload = data.encode() if isinstance(data, str) else data
        if self.is_async:
            return await asyncio.wait_for(self.exchange(sandbox, port, payload), LIMIT)
        return await asyncio.wait_for(
            asyncio.to_thread(exchange_blocking, sandbox, port, payload), LIMIT
        )

    async def exchange(self, sandbox: Any, port: int, payload: bytes) -> bytes:
        reader, writer = await sandbox.connect_port(port)

        async def send() -> None:
            writer.write(payload)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        received: bytes = await reader.read(-1)
        await sending
        writer.close()
        return received

    async def do_http_get(self, _: Any, url: str) -> dict[str, Any]:
        end = time.monotonic() + 20
        while True:
            # Names below localhost need no resolver.
            parts = urlsplit(url)
            assert parts.hostname is not None
            response = httpx.get(url, follow_redirects=True)
            if response.status_code != 502 or time.monotonic() > end:
                return {"status": response.status_code, "text": response.text}
            await asyncio.sleep(0.2)

    async def do_faults_set(self, _: Any, faults: list[Any]) -> None:
        self.set_faults(faults)

    async def do_faults_count(self, _: Any, method: str, path: str) -> int:
        seen = httpx.get(f"{self.faults_url}/faults").json()["requests"]
        return sum(r["method"] == method and bool(re.search(path, r["path"])) for r in seen)


def exchange_blocking(sandbox: Any, port: int, payload: bytes) -> bytes:
    import socket
    import threading

    with sandbox.connect_port(port) as connection:

        def send() -> None:
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        sender.join()
    return b"".join(parts)
