"""The scenarios that all SDKs share, with blocking and with awaited calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conformance import Runner, load

from wrenn_sandbox._settings import Settings

SCENARIOS = load()
# What makes sandboxes of its own is run once: the time of its test is the server's.
BOTH = [scenario for scenario in SCENARIOS if scenario.get("uses") == "shared"]


def name_of(scenario: dict[str, Any]) -> str:
    return str(scenario["name"])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_blocking(
    scenario: dict[str, Any], server: Settings, faults_url: str, shared_id: str
) -> None:
    runner = Runner(server.url, server.key, faults_url, shared_id, is_async=False)
    asyncio.run(runner.run(scenario))


@pytest.mark.parametrize("scenario", BOTH, ids=name_of)
def test_awaited(
    scenario: dict[str, Any], server: Settings, faults_url: str, shared_id: str
) -> None:
    runner = Runner(server.url, server.key, faults_url, shared_id, is_async=True)
    asyncio.run(runner.run(scenario))
