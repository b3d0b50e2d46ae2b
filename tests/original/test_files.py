"""`files` and `git`."""

from __future__ import annotations

from typing import Any

import pytest
import wrenn
from conftest import Face, each, go


async def test_files_are_written_and_read(box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/deep/a.txt", "h\u00e4\n"))
    assert await go(box.files.read(f"{place}/deep/a.txt")) == "h\u00e4\n"
    await go(box.files.write(f"{place}/b.bin", bytes(range(256))))
    assert await go(box.files.read_bytes(f"{place}/b.bin")) == bytes(range(256))
    await go(box.files.write(f"{place}/empty", b""))
    assert await go(box.files.read_bytes(f"{place}/empty")) == b""
    with pytest.raises(wrenn.WrennNotFoundError) as caught:
        await go(box.files.read(f"{place}/none"))
    assert caught.value.status_code == 404


async def test_directories_are_listed(box: Any, place: str) -> None:
    made = await go(box.files.make_dir(f"{place}/d/e"))
    assert (made.name, made.type, made.path) == ("e", "directory", f"{place}/d/e")
    again = await go(box.files.make_dir(f"{place}/d/e"))
    assert again.name == "e"
    await go(box.files.write(f"{place}/d/f.txt", "123"))
    await go(box.commands.run("ln -s f.txt link; chmod 750 f.txt", cwd=f"{place}/d"))
    entries = {entry.name: entry for entry in await go(box.files.list(f"{place}/d"))}
    assert sorted(entries) == ["e", "f.txt", "link"]
    file = entries["f.txt"]
    assert (file.type, file.size, file.permissions, file.owner) == ("file", 3, "-rwxr-x---", "root")
    assert file.modified_at > 1_700_000_000
    assert (entries["link"].type, entries["link"].symlink_target) == ("symlink", f"{place}/d/f.txt")
    deep = await go(box.files.list(place, depth=3))
    assert {"d", "e", "f.txt"} <= {entry.name for entry in deep}
    with pytest.raises(wrenn.WrennNotFoundError):
        await go(box.files.list(f"{place}/none"))


async def test_paths_exist_until_removed(box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/dir/a", "x"))
    assert await go(box.files.exists(f"{place}/dir/a"))
    assert not await go(box.files.exists(f"{place}/none/a"))
    await go(box.files.remove(f"{place}/dir"))
    assert not await go(box.files.exists(f"{place}/dir"))
    with pytest.raises(wrenn.WrennNotFoundError):
        await go(box.files.remove(f"{place}/dir"))


async def test_large_file_is_streamed(face: Face, box: Any, place: str) -> None:
    piece = bytes(range(256)) * 4096
    await go(box.files.upload_stream(f"{place}/large", face.pieces(*[piece] * 16)))
    summed = await go(box.commands.run("stat -c %s large", cwd=place))
    assert summed.stdout == f"{16 * len(piece)}\n"
    count = 0
    async for data in each(box.files.download_stream(f"{place}/large")):
        start = count % 256
        assert data == (piece[start:] + piece[: len(data) + 256])[: len(data)] or len(data) > len(piece)
        count += len(data)
    assert count == 16 * len(piece)


async def test_git_keeps_history(box: Any, place: str) -> None:
    git, cwd = box.git, f"{place}/work"
    await go(git.init(f"{place}/bare.git", bare=True, initial_branch="main"))
    await go(git.init(cwd, initial_branch="main"))
    await go(git.configure_user("Alice", "alice@example.com", scope="local", cwd=cwd))
    assert await go(git.get_config("user.name", cwd=cwd)) == "Alice"
    await go(git.set_config("core.autocrlf", "false", cwd=cwd))
    assert await go(git.get_config("core.autocrlf", cwd=cwd)) == "false"
    assert await go(git.get_config("no.such", cwd=cwd)) is None
    await go(box.files.write(f"{cwd}/a.txt", "one\n"))
    status = await go(git.status(cwd=cwd))
    assert status.branch == "main" and [file.path for file in status.files] == ["a.txt"]
    await go(git.add(all=True, cwd=cwd))
    await go(git.commit("first", cwd=cwd))
    assert (await go(git.status(cwd=cwd))).is_clean
    await go(git.remote_add("origin", f"{place}/bare.git", cwd=cwd))
    assert await go(git.remote_get("origin", cwd=cwd)) == f"{place}/bare.git"
    assert await go(git.remote_get("other", cwd=cwd)) is None
    await go(git.push("origin", "main", set_upstream=True, cwd=cwd))
    await go(git.create_branch("feature", cwd=cwd))
    await go(git.checkout_branch("main", cwd=cwd))
    branches = {branch.name: branch.is_current for branch in await go(git.branches(cwd=cwd))}
    assert branches["main"] and "feature" in branches
    await go(git.delete_branch("feature", cwd=cwd))
    await go(box.files.write(f"{cwd}/a.txt", "two\n"))
    await go(git.add(["a.txt"], cwd=cwd))
    await go(git.restore(["a.txt"], staged=True, cwd=cwd))
    await go(git.restore(["a.txt"], worktree=True, cwd=cwd))
    assert await go(box.files.read(f"{cwd}/a.txt")) == "one\n"


async def test_git_clones_and_pulls(box: Any, place: str) -> None:
    git, cwd = box.git, f"{place}/work"
    await go(git.init(cwd, initial_branch="main"))
    author = {"author_name": "A", "author_email": "a@example.com"}
    envs = {"GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.com"}
    await go(git.commit("first", allow_empty=True, cwd=cwd, envs=envs, **author))
    await go(git.clone(f"{place}/work", "copy", cwd=place))
    await go(git.commit("second", allow_empty=True, cwd=cwd, envs=envs, **author))
    await go(git.pull("origin", "main", ff_only=True, cwd=f"{place}/copy"))
    await go(git.reset(mode="hard", ref="HEAD~1", cwd=f"{place}/copy"))
    assert (await go(git.status(cwd=f"{place}/copy"))).behind == 1
    with pytest.raises(wrenn.GitCommandError) as caught:
        await go(git.checkout_branch("none", cwd=cwd))
    assert caught.value.exit_code != 0 and "none" in caught.value.stderr
    await go(git.dangerously_authenticate("user", "secret", host="git.example.com"))
    stored = await go(box.commands.run("cat ~/.git-credentials"))
    assert "https://user:secret@git.example.com" in stored.stdout
