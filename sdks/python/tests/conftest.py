"""A real server for tests: the one that WRENN_API_URL and the credentials name."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fake import FakeServer

from wrenn_sandbox import Sandbox, _settings

FAULTS = pathlib.Path(__file__).parents[2] / "conformance" / "faults.py"


@pytest.fixture(scope="session")
def server() -> _settings.Settings:
    """URL and key. Tests that need a server fail where there is none: none is skipped."""
    return _settings.load(None, None)


@pytest.fixture(scope="session")
def faults_url(server: _settings.Settings) -> Iterator[str]:
    """The proxy that breaks connections."""
    with subprocess.Popen(
        [sys.executable, str(FAULTS), "--to", server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as proxy:
        assert proxy.stdout is not None
        yield proxy.stdout.readline().strip()
        proxy.communicate()


@pytest.fixture(scope="session")
def shared_id(server: _settings.Settings) -> Iterator[str]:
    """A sandbox that tests share: id."""
    with Sandbox.create(labels={"suite": f"python-{os.getpid()}"}, timeout=1800) as sandbox:
        yield sandbox.sandbox_id


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server whose answers the test writes down."""
    server = FakeServer()
    yield server
    server.stop()
