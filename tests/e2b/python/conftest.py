"""Runs each test against the installed `e2b` package twice: with `Sandbox` and with `AsyncSandbox`.

A test says which call it covers: `@covers("files.write(gzip)")`. Its tests are not run where the package lacks that
method or parameter, and the matrix shows it as such. `go(x)` awaits what only `AsyncSandbox` makes awaitable.
Outcomes go to the file that E2B_TEST_RESULTS names.
"""

from __future__ import annotations

import asyncio
import collections
import importlib
import importlib.metadata
import inspect
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import e2b
import httpx
import pytest
from packaging.version import Version

VERSION = Version(importlib.metadata.version("e2b"))
API_URL = os.environ["E2B_API_URL"]
SANDBOX_URL = os.environ["E2B_SANDBOX_URL"]
# Longer than all tests take under load.
LIFETIME_SEC = 3600

# Types of parameters whose keys are told apart.
_KEYS = {"network": e2b.SandboxNetworkOpts}

# One loop for all tests: the package keeps connections of each loop.
LOOP = asyncio.new_event_loop()

_CLASSES = {
    "commands": ("commands.command", "Commands"),
    "files": ("filesystem.filesystem", "Filesystem"),
    "git": ("git", "Git"),
    "handle": ("commands.command_handle", "CommandHandle"),
    "pty": ("commands.pty", "Pty"),
    "watch": ("filesystem.watch_handle", "WatchHandle"),
}


def covers(label: str, *, needs: tuple[str, ...] = (), refused: str | None = None) -> Callable[[Any], Any]:
    """Names the call that a test covers, what else it needs of the package, and the status that refuses the call."""

    def mark(test: Any) -> Any:
        return pytest.mark.covers(label, needs, refused)(test)

    return mark


async def go(value: Any) -> Any:
    """Returns what a call of either face returns in the end."""
    return await value if inspect.isawaitable(value) else value


async def until(check: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """Calls `check` until it returns something true."""
    deadline = time.monotonic() + seconds
    while True:
        found = await go(check())
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        await asyncio.sleep(0.05)


async def stream_input(sdk: Sdk, module: Any, pid: int, chunks: list[Any]) -> None:
    """Sends chunks to a command or terminal in one stream."""
    if not sdk.is_async:
        module.stream_input(pid, chunks)
        return
    stream = module.stream_input(pid)
    for chunk in chunks:
        await stream.send(chunk)
    await stream.close()


class Sdk:
    """One face of the package, and the sandboxes that its tests create."""

    def __init__(self, face: str) -> None:
        self.face = face
        self.is_async = face == "async"
        self.Sandbox = e2b.AsyncSandbox if self.is_async else e2b.Sandbox
        self.version = VERSION
        self.run_id = uuid.uuid4().hex[:12]
        self._created: list[str] = []

    def named(self, name: str) -> Any:
        """Returns a class of the package by the name that its synchronous form has."""
        return getattr(e2b, f"Async{name}" if self.is_async else name)

    async def create(self, *arguments: Any, **options: Any) -> Any:
        """Creates a sandbox that goes with the test run."""
        options.setdefault("timeout", LIFETIME_SEC)
        return self.remember(await go(self.Sandbox.create(*arguments, **options)))

    def remember(self, sandbox: Any) -> Any:
        self._created.append(sandbox.sandbox_id)
        return sandbox

    async def kill_all(self) -> None:
        for sandbox_id in self._created:
            await go(self.Sandbox.kill(sandbox_id))
        self._created.clear()

    async def start(self, sandbox: Any, command: str, **options: Any) -> Any:
        """Starts a command in the background."""
        return await go(sandbox.commands.run(command, background=True, **options))

    async def output(self, sandbox: Any, command: str, **options: Any) -> str:
        """Returns what a command writes, without the last end of line."""
        return (await go(sandbox.commands.run(command, **options))).stdout.rstrip("\n")


def port_request(sandbox: Any, port: int, path: str = "/", **options: Any) -> httpx.Response:
    """Asks a port of a sandbox over the address that all of them share."""
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port), **options.pop("headers", {})}
    return httpx.get(SANDBOX_URL + path, headers=headers, timeout=90, **options)


def _has(face: str, label: str) -> bool:
    """Returns whether the package has a method, a parameter of one, or a key in it: `Sandbox.create(network.rules)`."""
    name, _, parameter = label.partition("(")
    owner, _, method = name.partition(".")
    prefix = "Async" if face == "async" else ""
    if owner in _CLASSES:
        path, class_name = _CLASSES[owner]
        module = importlib.import_module(f"e2b.sandbox_{face}.{path}")
        found = getattr(module, class_name, None) or getattr(module, f"Async{class_name}")
    else:
        found = getattr(e2b, prefix + owner, None) or getattr(e2b, owner, None)
    if found is None or not method:
        return found is not None
    found = getattr(found, method, None)
    parameter, _, key = parameter.rstrip(")").partition("=")[0].partition(".")
    if found is None or not parameter:
        return found is not None
    if key and key not in _KEYS[parameter].__annotations__:
        return False
    return parameter in inspect.signature(found).parameters


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "covers(label, needs, refused): the call that a test covers")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sdk" in metafunc.fixturenames:
        faces = os.environ.get("E2B_TEST_FACES", "sync async").split()
        metafunc.parametrize("sdk", faces, indirect=True, scope="session")


# What the package lacks: the labels of each face.
_LACKING: dict[str, set[str]] = {"sync": set(), "async": set()}
# The status that refuses a call which the server does not have.
_REFUSED: dict[str, str] = {}
_OUTCOMES: dict[tuple[str, str], list[bool]] = collections.defaultdict(list)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, left_out = [], []
    for item in items:
        mark = item.get_closest_marker("covers")
        assert mark, f"{item.nodeid} does not say what it covers"
        label, needs, refused = mark.args
        face = item.callspec.params["sdk"]  # type: ignore[attr-defined]
        if refused:
            _REFUSED[label] = refused
        if all(_has(face, name) for name in (label, *needs)):
            kept.append(item)
        else:
            _LACKING[face].add(label)
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    LOOP.run_until_complete(pyfuncitem.obj(**arguments))
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    label, face = dict(report.user_properties).get("covers", (None, None))
    if label and (report.when == "call" or not report.passed):
        _OUTCOMES[label, face].append(report.passed)
    if report.failed:
        # At once: a run that is cut off says as much as it knows.
        print(f"\n{report.nodeid}\n{report.longreprtext}", flush=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("covers")
    item.user_properties.append(("covers", (mark.args[0], item.callspec.params["sdk"])))


def pytest_sessionfinish() -> None:
    path = os.environ.get("E2B_TEST_RESULTS")
    if not path:
        return
    calls: dict[str, dict[str, bool | str | None]] = collections.defaultdict(dict)
    for face, labels in _LACKING.items():
        for label in labels:
            calls[label][face] = None
    for (label, face), outcomes in _OUTCOMES.items():
        calls[label][face] = all(outcomes) and _REFUSED.get(label, True)
    outcomes = [passed for found in _OUTCOMES.values() for passed in found]
    result = {"calls": calls, "passed": sum(outcomes), "failed": len(outcomes) - sum(outcomes)}
    with open(path, "w") as file:
        json.dump(result, file)


@pytest.fixture(scope="session")
def sdk(request: pytest.FixtureRequest) -> Iterator[Sdk]:
    sdk = Sdk(request.param)
    yield sdk
    LOOP.run_until_complete(sdk.kill_all())


@pytest.fixture(scope="session")
def box(sdk: Sdk) -> Any:
    """Returns the sandbox that all tests share that leave it as it was."""
    return LOOP.run_until_complete(sdk.create(metadata={"purpose": "shared", "run": sdk.run_id}))


@pytest.fixture
def place(sdk: Sdk, box: Any, request: pytest.FixtureRequest) -> str:
    """Returns a directory of the shared sandbox that is the test's own."""
    path = f"/home/user/{request.function.__name__}-{sdk.run_id}"
    LOOP.run_until_complete(go(box.files.make_dir(path)))
    return path
