"""`files.watch_dir`, which differs between the faces: one is asked for events, the other gives them to a function."""

from __future__ import annotations

from typing import Any

import e2b
import pytest
from conftest import Sdk, covers, go, until
from e2b import FilesystemEventType as Type


class Watch:
    def __init__(self, sdk: Sdk, box: Any) -> None:
        self.sdk, self.box, self.events, self.ended = sdk, box, [], []

    async def open(self, path: str, **options: Any) -> Watch:
        if self.sdk.is_async:
            options |= {"on_event": self.events.append, "on_exit": self.ended.append}
        self.handle = await go(self.box.files.watch_dir(path, **options))
        return self

    async def seen(self) -> list[Any]:
        if not self.sdk.is_async:
            self.events += self.handle.get_new_events()
        return self.events

    async def saw(self, name: str, kind: Type) -> Any:
        """Waits for an event and returns it."""

        async def find() -> Any:
            return next((event for event in await self.seen() if (event.name, event.type) == (name, kind)), None)

        return await until(find, f"{kind} of {name}")

    async def stop(self) -> None:
        await go(self.handle.stop())


@covers("files.watch_dir")
async def test_new_file_is_three_events(sdk: Sdk, box: Any, place: str) -> None:
    watch = await Watch(sdk, box).open(place)
    await go(box.files.write(f"{place}/new", "x"))
    if not sdk.is_async:
        # They are there when the upload is answered.
        assert len(await watch.seen()) == 3
    await until(lambda: len(watch.events) >= 3, "three events")
    assert [event.name for event in watch.events] == ["new"] * 3
    assert watch.events[0].type == Type.CREATE
    assert Type.WRITE in [event.type for event in watch.events]
    await watch.stop()


@covers("files.watch_dir")
async def test_each_kind_of_change_is_seen(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/file", "x"))
    watch = await Watch(sdk, box).open(place)
    await go(box.files.write(f"{place}/file", "y"))
    await watch.saw("file", Type.WRITE)
    await go(box.commands.run(f"chmod 600 {place}/file"))
    await watch.saw("file", Type.CHMOD)
    await go(box.files.rename(f"{place}/file", f"{place}/other"))
    await watch.saw("file", Type.RENAME)
    await watch.saw("other", Type.CREATE)
    await go(box.files.remove(f"{place}/other"))
    await watch.saw("other", Type.REMOVE)
    await watch.stop()


@covers("files.watch_dir(recursive)")
async def test_new_directories_are_watched(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.make_dir(f"{place}/old"))
    watch = await Watch(sdk, box).open(place, recursive=True)
    await go(box.files.write(f"{place}/old/file", "x"))
    await watch.saw("old/file", Type.CREATE)
    await go(box.files.make_dir(f"{place}/new"))
    await watch.saw("new", Type.CREATE)
    await go(box.files.write(f"{place}/new/file", "x"))
    await watch.saw("new/file", Type.WRITE)
    await watch.stop()


@covers("files.watch_dir")
async def test_watch_without_recursion_stays_above(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.make_dir(f"{place}/d"))
    watch = await Watch(sdk, box).open(place)
    await go(box.files.write(f"{place}/d/hidden", "x"))
    await go(box.files.write(f"{place}/shown", "x"))
    await watch.saw("shown", Type.WRITE)
    assert not [event for event in watch.events if "hidden" in event.name]
    await watch.stop()


@covers("files.watch_dir(include_entry)")
async def test_events_carry_entries(sdk: Sdk, box: Any, place: str) -> None:
    watch = await Watch(sdk, box).open(place, include_entry=True)
    await go(box.files.write(f"{place}/file", "12345"))
    event = await watch.saw("file", Type.WRITE)
    assert (event.entry.path, event.entry.owner) == (f"{place}/file", "user")
    await watch.stop()


@covers("files.watch_dir(allow_network_mounts)")
async def test_local_directory_may_be_watched_either_way(sdk: Sdk, box: Any, place: str) -> None:
    watch = await Watch(sdk, box).open(place, allow_network_mounts=True)
    await go(box.files.write(f"{place}/file", "x"))
    await watch.saw("file", Type.CREATE)
    await watch.stop()


@covers("files.watch_dir")
async def test_watch_of_missing_or_file_raises(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/file", "x"))
    with pytest.raises(e2b.NotFoundException):
        await Watch(sdk, box).open(f"{place}/missing")
    with pytest.raises(e2b.InvalidArgumentException):
        await Watch(sdk, box).open(f"{place}/file")


@covers("watch.stop")
async def test_stopped_watch_is_over(sdk: Sdk, box: Any, place: str) -> None:
    watch = await Watch(sdk, box).open(place)
    await watch.stop()
    if sdk.is_async:
        await go(box.files.write(f"{place}/file", "x"))
        assert watch.events == []
    else:
        with pytest.raises(e2b.SandboxException):
            watch.handle.get_new_events()
