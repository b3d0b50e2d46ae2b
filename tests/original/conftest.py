"""Runs each test against the published `wrenn` package twice: with its synchronous and with its asynchronous classes.

`go(x)` awaits what only the asynchronous ones make awaitable. The server is that of WRENN_BASE_URL and WRENN_API_KEY, as
users of the package name theirs.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import wrenn
import wrenn.code_runner

# One loop for all tests: the package keeps connections of each loop.
LOOP = asyncio.new_event_loop()


async def go(value: Any) -> Any:
    """Returns what a call of either face returns in the end."""
    return await value if inspect.isawaitable(value) else value


async def each(items: Any) -> AsyncIterator[Any]:
    """Yields the items of an iterator of either face."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


@asynccontextmanager
async def within(manager: Any) -> AsyncIterator[Any]:
    """Enters a context manager of either face."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def until(check: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Calls `check` until it returns something true."""
    deadline = time.monotonic() + seconds
    while True:
        found = await go(check())
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        await asyncio.sleep(0.05)


class Face:
    """The classes of one face."""

    def __init__(self, name: str) -> None:
        self.is_async = name == "async"
        self.Capsule = self.named("Capsule")
        self.Client = self.named("WrennClient")
        code_runner = wrenn.code_runner
        self.CodeCapsule = code_runner.AsyncCapsule if self.is_async else code_runner.Capsule

    def named(self, name: str) -> Any:
        return getattr(wrenn, f"Async{name}" if self.is_async else name)

    async def create(self, **options: Any) -> Any:
        return await go(self.Capsule.create(**options))

    def pieces(self, *pieces: bytes) -> Any:
        """Returns an iterator of the kind that this face takes."""

        async def asynchronous() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return asynchronous() if self.is_async else iter(pieces)


@pytest.fixture(params=["sync", "async"], scope="session")
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


@pytest.fixture(scope="session")
def shared_id() -> Iterator[str]:
    """Returns the id of the capsule that all tests share which leave it as it was."""
    capsule = wrenn.Capsule(wait=True)
    yield capsule.capsule_id
    wrenn.Capsule.destroy(capsule.capsule_id, wait=True)


@pytest.fixture(scope="session")
def box(face: Face, shared_id: str) -> Any:
    return LOOP.run_until_complete(go(face.Capsule.connect(shared_id)))


@pytest.fixture
def client(face: Face) -> Iterator[Any]:
    client = face.Client()
    yield client
    LOOP.run_until_complete(go(client.aclose() if face.is_async else client.close()))


@pytest.fixture
def place(box: Any, face: Face, request: pytest.FixtureRequest) -> str:
    """Returns a directory of the shared capsule that is the test's own."""
    path = f"/app/{request.function.__name__}-{'async' if face.is_async else 'sync'}"
    LOOP.run_until_complete(go(box.files.make_dir(path)))
    return path


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    LOOP.run_until_complete(pyfuncitem.obj(**arguments))
    return True


# Outcomes of tests, for the line as `cargo test` has it.
_COUNTS = {True: 0, False: 0}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        _COUNTS[report.passed] += 1
    if report.failed:
        # At once: a run that is cut off says as much as it knows.
        print(f"\ntest original::{report.nodeid} ... FAILED\n{report.longreprtext}", flush=True)


def pytest_sessionfinish(exitstatus: int) -> None:
    failed = max(_COUNTS[False], 1 if exitstatus or not _COUNTS[True] else 0)
    print(f"\ntest result: {'FAILED' if failed else 'ok'}. {_COUNTS[True]} passed; {failed} failed", flush=True)
