"""Errors that are those of no single call, and calls whose thing there is not: they say so."""

from __future__ import annotations

import os
from typing import Any

import e2b
import pytest
from conftest import VERSION, Sdk, covers, go
from packaging.version import Version


@covers("AuthenticationException")
async def test_unknown_key_is_not_authenticated(sdk: Sdk) -> None:
    with pytest.raises(e2b.AuthenticationException):
        await go(sdk.Sandbox.create(api_key="e2b_" + "0" * 40))
    with pytest.raises(e2b.AuthenticationException):
        await go(sdk.Sandbox.list(api_key="e2b_" + "0" * 40).next_items())


@covers("AuthenticationException")
async def test_key_is_needed(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_API_KEY")
    with pytest.raises(e2b.AuthenticationException):
        await go(sdk.Sandbox.create())


@covers("AuthenticationException")
async def test_key_has_form_of_old_clients(sdk: Sdk) -> None:
    key = os.environ["E2B_API_KEY"]
    assert key.startswith("e2b_")
    assert set(key.removeprefix("e2b_")) <= set("0123456789abcdef")


@covers("AuthenticationException")
async def test_wrong_token_is_not_authenticated(sdk: Sdk, box: Any) -> None:
    headers = {"X-Access-Token": "wrong", "E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "49983"}
    import httpx

    answer = httpx.get(os.environ["E2B_SANDBOX_URL"] + "/files?path=/etc/hostname", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, 401)


@covers("E2B")
async def test_client_is_bound_to_its_key(sdk: Sdk) -> None:
    client = e2b.E2B(api_key="e2b_" + "0" * 40)
    bound = client.AsyncSandbox if sdk.is_async else client.Sandbox
    with pytest.raises(e2b.AuthenticationException):
        await go(bound.create())
    good = e2b.E2B(api_key=os.environ["E2B_API_KEY"])
    bound = good.AsyncSandbox if sdk.is_async else good.Sandbox
    sandbox = sdk.remember(await go(bound.create(timeout=60)))
    assert await go(sandbox.kill())


@covers("InvalidArgumentException")
async def test_timeout_that_is_wrong_is_refused(sdk: Sdk) -> None:
    with pytest.raises(e2b.SandboxException) as caught:
        await sdk.create(timeout=-5)
    assert "400" in str(caught.value)


@covers("TimeoutException")
async def test_paused_sandbox_says_it_is_not_running(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    await go(sandbox.pause())
    expected = e2b.TimeoutException
    if Version("2.53") <= VERSION:
        expected = e2b.SandboxNotRunningException
    with pytest.raises(expected):
        await go(sandbox.files.list("/"))
    assert await go(sandbox.kill())
