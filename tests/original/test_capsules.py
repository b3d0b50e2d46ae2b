"""`Capsule`, and `client.capsules`, `client.snapshots` and `client.events`."""

from __future__ import annotations

import datetime
import os
import threading
from typing import Any

import pytest
import wrenn
from conftest import Face, each, go, until, within
from wrenn.models import Status


async def test_life_of_capsule(face: Face) -> None:
    capsule = await face.create(template="minimal", vcpus=1, memory_mb=256, timeout=600)
    async with within(capsule):
        capsule_id = capsule.capsule_id
        await go(capsule.wait_ready())
        assert await go(capsule.is_running())
        info = await go(capsule.get_info())
        assert (info.status, info.template, info.memory_mb) == (Status.running, "minimal", 256)
        assert (info.timeout_sec, info.vcpus) == (600, 1)
        assert info.created_at and info.disk_size_mb
        await go(capsule.files.write("/app/kept", "before"))
        paused = await go(capsule.pause(wait=True))
        assert paused.status == Status.paused
        with pytest.raises(wrenn.WrennConflictError) as caught:
            await go(capsule.commands.run("true"))
        assert caught.value.code == "invalid_state"
        resumed = await go(capsule.resume(wait=True))
        assert resumed.status == Status.running
        await go(face.Capsule.pause(capsule_id, wait=True))
        again = await go(face.Capsule.connect(capsule_id))
        assert await go(again.files.read("/app/kept")) == "before"
        assert (await go(face.Capsule.get_info(capsule_id))).status == Status.running
        listed = await go(face.Capsule.list())
        assert capsule_id in [entry.id for entry in listed]
    with pytest.raises(wrenn.WrennNotFoundError):
        await go(face.Capsule.get_info(capsule_id))


async def test_client_drives_capsule_by_id(face: Face, client: Any) -> None:
    made = await go(client.capsules.create(memory_mb=256))
    assert made.timeout_sec == 0
    try:
        await until(lambda: is_running(client, made.id), "its start")
        await go(client.capsules.ping(made.id))
        assert (await go(client.capsules.pause(made.id))).status in (Status.pausing, Status.paused)
        await until(lambda: has_status(client, made.id, Status.paused), "its pause")
        assert (await go(client.capsules.resume(made.id))).status in (Status.resuming, Status.running)
        await until(lambda: is_running(client, made.id), "its resume")
        assert made.id in [entry.id for entry in await go(client.capsules.list())]
    finally:
        await go(face.Capsule.destroy(made.id, wait=True))
    with pytest.raises(wrenn.WrennNotFoundError) as caught:
        await go(client.capsules.destroy(made.id))
    assert (caught.value.code, caught.value.status_code) == ("not_found", 404)


async def is_running(client: Any, capsule_id: str) -> bool:
    return await has_status(client, capsule_id, Status.running)


async def has_status(client: Any, capsule_id: str, status: Status) -> bool:
    return (await go(client.capsules.get(capsule_id))).status == status


async def test_use_is_told(face: Face, client: Any, box: Any) -> None:
    stats = await go(client.capsules.stats(range="1h"))
    assert stats.current.running_count >= 1 and stats.peaks.vcpus >= 1
    assert len(stats.series.labels) == len(stats.series.running) == 60
    today = datetime.datetime.now(datetime.UTC).date()
    usage = await go(client.capsules.usage(from_=today - datetime.timedelta(days=1), to=today))
    assert [point.date for point in usage.points][-1] == today and usage.to == today
    assert usage.points[-1].cpu_minutes > 0

    async def measured() -> Any:
        metrics = await go(client.capsules.metrics(box.capsule_id, range="10m"))
        assert metrics.sandbox_id == box.capsule_id
        return metrics.points

    points = await until(measured, "a measurement")
    assert points[-1].mem_bytes > 0 and points[-1].timestamp_unix > 0
    with pytest.raises(wrenn.WrennValidationError):
        await go(client.capsules.stats(range="1y"))
    await go(box.ping())


async def test_snapshot_is_template(face: Face, client: Any) -> None:
    name = f"original-{'async' if face.is_async else 'sync'}"
    async with within(await face.create(memory_mb=256, wait=True)) as source:
        await go(source.files.write("/app/mark", "kept"))
        template = await go(source.create_snapshot(name=name))
        assert (template.name, template.type) == (name, "snapshot")
        with pytest.raises(wrenn.WrennConflictError):
            await go(client.snapshots.create(source.capsule_id, name=name))
        again = await go(client.snapshots.create(source.capsule_id, name=name, overwrite=True))
        assert again.size_bytes > 0 and not again.protected
    async with within(await face.create(template=name, wait=True)) as child:
        assert await go(child.files.read("/app/mark")) == "kept"
    listed = await go(client.snapshots.list(type="snapshot"))
    assert name in [entry.name for entry in listed]
    all_names = [entry.name for entry in await go(client.snapshots.list())]
    assert name in all_names and "minimal" in all_names
    await go(client.snapshots.delete(name))
    with pytest.raises(wrenn.WrennNotFoundError):
        await go(client.snapshots.delete(name))


async def test_events_come_as_they_happen(face: Face, client: Any) -> None:
    made: list[str] = []

    def act() -> None:
        """Makes events, beside the stream that blocks this thread."""
        with wrenn.Capsule(memory_mb=256, wait=True) as capsule:
            made.append(capsule.capsule_id)
            capsule.pause(wait=True)

    told: list[str] = []
    acting = threading.Thread(target=act)
    async for event in each(client.events.stream()):
        if event.event == "connected":
            acting.start()
        elif event.resource.id in made or event.event == "capsule.create":
            told.append(event.event)
            assert event.actor.type in ("api_key", "system") and event.timestamp
            if event.event == "capsule.create":
                assert event.outcome == "success" and event.sandbox.status is not None
        if event.event == "capsule.destroy":
            break
    acting.join()
    wanted = [name for name in told if name != "capsule.state.changed"]
    assert wanted == ["capsule.create", "capsule.pause", "capsule.destroy"]


async def test_port_has_url(face: Face, box: Any) -> None:
    port = 8001 if face.is_async else 8000
    server = f"mkdir -p /srv/{port} && echo hello >/srv/{port}/index.html && cd /srv/{port} && python3 -m http.server {port}"
    handle = await go(box.commands.run(server, background=True))
    url = box.get_url(port)
    assert url == f"http://{port}-{box.capsule_id}.{os.environ['WRENN_BASE_URL'].split('/')[2]}"

    import httpx

    def is_served() -> bool:
        answer = httpx.get(url, timeout=10)
        return answer.status_code == 200 and answer.text == "hello\n"

    await until(is_served, "the server")
    await go(box.commands.kill(handle.pid))


async def test_errors_have_classes(face: Face, box: Any) -> None:
    with pytest.raises(wrenn.WrennValidationError) as caught:
        await face.create(vcpus=100_000)
    assert "vcpus" in caught.value.message and caught.value.status_code == 400
    with pytest.raises(wrenn.WrennAuthenticationError):
        await face.create(api_key=f"wrn_{'0' * 40}")
    with pytest.raises(wrenn.WrennNotFoundError):
        await face.create(template="no-such-template")
    with pytest.raises(wrenn.WrennForbiddenError):
        await go(box.files.remove("/proc/version"))
    with pytest.raises(wrenn.WrennNotFoundError):
        await go(face.Capsule.connect("sb-00000000000000000000"))
    with pytest.raises(wrenn.WrennError) as caught:
        await go(face.CodeCapsule.create())
    assert (caught.value.code, caught.value.status_code) == ("not_implemented", 501)
    with pytest.raises(wrenn.WrennError) as caught:
        await go(box.commands.run("sleep 5", timeout=1))
    assert (caught.value.code, caught.value.status_code) == ("timeout", 504)
