"""The scenarios that all SDKs share, with blocking and with awaited calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conformance import Runner, load

from wrenn_sandbox._settings import Settings

SCENARIOS = load()
# What makes sandboxes of its own is run once: the time of its test is the server's.
SHARED = [scenario for scenario in SCENARIOS if scenario.get("uses") == "shared"]
# Awaited calls are the source of the blocking ones: what differs is how they wait.
OFTEN = ("commands", "faults")


def name_of(scenario: dict[str, Any]) -> str:
    return str(scenario["name"])


def awaited(scenario: dict[str, Any]) -> Any:
    marks = [] if scenario["file"] in OFTEN else [pytest.mark.long]
    return pytest.param(scenario, id=name_of(scenario), marks=marks)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_blocking(
    scenario: dict[str, Any], server: Settings, faults_url: str, shared_id: str
) -> None:
    runner = Runner(server.url, server.key, faults_url, shared_id, is_async=False)
    asyncio.run(runner.run(scenario))


@pytest.mark.parametrize("scenario", [awaited(scenario) for scenario in SHARED])
def test_awaited(
    scenario: dict[str, Any], server: Settings, faults_url: str, shared_id: str
) -> None:
    runner = Runner(server.url, server.key, faults_url, shared_id, is_async=True)
    asyncio.run(runner.run(scenario))
