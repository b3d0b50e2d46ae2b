"""Calls whose thing there is not are refused, and say what it is."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Sdk, covers, go


async def is_refused(call: Any, thing: str, status: str = "501") -> None:
    """Checks that a call is refused, in words that name the thing."""
    with pytest.raises(Exception) as caught:
        await go(call())
    assert status in str(caught.value), caught.value
    assert thing in str(caught.value).lower(), caught.value


@covers("Volume.create", refused="501")
async def test_volumes_are_refused(sdk: Sdk) -> None:
    volume = sdk.named("Volume")
    await is_refused(lambda: volume.create("data"), "volume")


@covers("Volume.list", refused="501")
async def test_list_of_volumes_is_refused(sdk: Sdk) -> None:
    volume = sdk.named("Volume")
    await is_refused(lambda: volume.list(), "volume")


@covers("Sandbox.create(volume_mounts)", refused="501")
async def test_volume_mounts_are_refused(sdk: Sdk) -> None:
    await is_refused(lambda: sdk.create(volume_mounts={"/data": "name"}), "volume")


@covers("Secret.create", refused="501")
async def test_secrets_are_refused(sdk: Sdk) -> None:
    secret = sdk.named("Secret")
    await is_refused(lambda: secret.create("NAME", "value"), "secret")


@covers("Secret.list", refused="501")
async def test_list_of_secrets_is_refused(sdk: Sdk) -> None:
    secret = sdk.named("Secret")
    await is_refused(lambda: secret.list().next_items(), "secret")


@covers("Sandbox.create(iam)", refused="501")
async def test_workload_identity_is_refused(sdk: Sdk) -> None:
    token = {"audience": "sts.example.com", "token_type": "JWT-SVID"}
    await is_refused(lambda: sdk.create(iam={"tokens": {"aws": token}}), "identity")


@covers("Template.build", refused="501")
async def test_template_builds_are_refused(sdk: Sdk) -> None:
    template = sdk.named("Template")
    plan = template().from_debian_image().run_cmd("true")
    await is_refused(lambda: template.build(plan, alias=f"build-{sdk.run_id}"), "template")


async def is_refused_without_memory(sdk: Sdk, act: Any) -> None:
    """Checks that what would lose the memory of a sandbox is refused and leaves it running."""
    sandbox = await sdk.create()
    await is_refused(lambda: act(sandbox), "memory", status="400")
    assert await sdk.output(sandbox, "echo still running") == "still running"
    assert await go(sandbox.kill())


@covers("Sandbox.pause(keep_memory)", refused="400")
async def test_pause_without_memory_is_refused(sdk: Sdk) -> None:
    await is_refused_without_memory(sdk, lambda sandbox: sandbox.pause(keep_memory=False))


@covers("Sandbox.pause(mode)", refused="400")
async def test_pause_of_file_system_is_refused(sdk: Sdk) -> None:
    await is_refused_without_memory(sdk, lambda sandbox: sandbox.pause(mode="filesystem"))


@covers("Sandbox.connect(on_resume)", refused="400")
async def test_reboot_of_paused_sandbox_is_refused(sdk: Sdk) -> None:
    sandbox = await sdk.create()
    await go(sandbox.pause())
    await is_refused(lambda: sandbox.connect(on_resume="reboot"), "memory", status="400")
    await go(sandbox.connect())
    assert await go(sandbox.kill())


def network_option(name: str, value: Any, thing: str) -> Any:
    return pytest.param(name, value, thing, marks=pytest.mark.covers(f"Sandbox.create(network.{name})", (), "501"))


@pytest.mark.parametrize(
    ("name", "value", "thing"),
    [
        network_option("rules", {"example.com": [{"transform": {"headers": {"X-A": "1"}}}]}, "rules"),
        network_option("egress_proxy", {"address": "192.0.2.1:1080"}, "proxy"),
        network_option("dns_servers", ["192.0.2.53"], "resolvers"),
        network_option("https_ports", [8443], "tls"),
        network_option("mask_request_host", "localhost:${PORT}", "host"),
    ],
)
async def test_network_option_is_refused(sdk: Sdk, name: str, value: Any, thing: str) -> None:
    network = {name: value, "deny_out": ["0.0.0.0/0"]}
    await is_refused(lambda: sdk.create(network=network), thing)
