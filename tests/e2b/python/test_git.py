"""`git`, which is commands of the program in the guest."""

from __future__ import annotations

from typing import Any

import e2b
import pytest
from conftest import Sdk, covers, go


async def repository(sdk: Sdk, box: Any, place: str) -> str:
    """Makes a repository with one commit."""
    path = f"{place}/repo"
    await go(box.git.init(path, initial_branch="main"))
    await go(box.git.configure_user("Tester", "tester@example.com", scope="local", path=path))
    await go(box.files.write(f"{path}/README", "one\n"))
    await go(box.git.add(path))
    await go(box.git.commit(path, "first"))
    return path


@covers("git.init")
async def test_new_repository_is_empty(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.git.init(f"{place}/repo", initial_branch="trunk"))
    status = await go(box.git.status(f"{place}/repo"))
    assert (status.current_branch, status.is_clean) == ("trunk", True)


@covers("git.configure_user")
async def test_user_is_configured(sdk: Sdk, box: Any) -> None:
    await go(box.git.configure_user("Global Name", "global@example.com"))
    assert await go(box.git.get_config("user.name")) == "Global Name"
    assert await go(box.git.get_config("user.email")) == "global@example.com"


@covers("git.set_config")
async def test_config_is_set(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.git.set_config("wrenn.key", "a value", scope="local", path=path))
    assert await go(box.git.get_config("wrenn.key", scope="local", path=path)) == "a value"


@covers("git.get_config")
async def test_config_that_is_not_set_is_none(sdk: Sdk, box: Any) -> None:
    assert await go(box.git.get_config("wrenn.unset")) is None


@covers("git.status")
async def test_status_tells_changes(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.files.write(f"{path}/README", "two\n"))
    await go(box.files.write(f"{path}/new", "x"))
    status = await go(box.git.status(path))
    assert (status.has_changes, status.has_staged, status.has_untracked) == (True, False, True)
    assert {file.name: file.status for file in status.file_status} == {"README": "modified", "new": "untracked"}


@covers("git.add")
async def test_added_file_is_staged(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.files.write(f"{path}/a", "x"))
    await go(box.files.write(f"{path}/b", "x"))
    await go(box.git.add(path, files=["a"]))
    assert (await go(box.git.status(path))).staged_count == 1


@covers("git.commit")
async def test_commit_has_author(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(
        box.git.commit(
            path, "a message with 'quotes'", author_name="Other", author_email="o@example.com", allow_empty=True
        )
    )
    shown = await sdk.output(box, f"git -C {path} log -1 --format='%an <%ae> %s'")
    assert shown == "Other <o@example.com> a message with 'quotes'"


@covers("git.branches")
async def test_branches_are_listed(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.git.create_branch(path, "topic"))
    branches = await go(box.git.branches(path))
    assert (sorted(branches.branches), branches.current_branch) == (["main", "topic"], "topic")


@covers("git.create_branch")
async def test_new_branch_is_current(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.git.create_branch(path, "feature/x"))
    assert (await go(box.git.status(path))).current_branch == "feature/x"


@covers("git.checkout_branch")
async def test_branch_is_checked_out(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.git.create_branch(path, "topic"))
    await go(box.git.checkout_branch(path, "main"))
    assert (await go(box.git.status(path))).current_branch == "main"
    with pytest.raises(e2b.CommandExitException):
        await go(box.git.checkout_branch(path, "missing"))


@covers("git.delete_branch")
async def test_branch_is_deleted(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.git.create_branch(path, "topic"))
    await go(box.git.checkout_branch(path, "main"))
    await go(box.git.delete_branch(path, "topic", force=True))
    assert (await go(box.git.branches(path))).branches == ["main"]


@covers("git.remote_add")
async def test_remote_is_added(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.git.remote_add(path, "origin", "https://example.com/a.git"))
    await go(box.git.remote_add(path, "origin", "https://example.com/b.git", overwrite=True))
    assert await go(box.git.remote_get(path, "origin")) == "https://example.com/b.git"


@covers("git.remote_get")
async def test_missing_remote_is_none(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    assert await go(box.git.remote_get(path, "origin")) is None


@covers("git.push")
async def test_pushed_commit_is_cloned_and_pulled(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.git.init(f"{place}/bare.git", bare=True, initial_branch="main"))
    await go(box.git.remote_add(path, "origin", f"{place}/bare.git"))
    await go(box.git.push(path, remote="origin", branch="main"))
    await go(box.git.clone(f"{place}/bare.git", path=f"{place}/clone", branch="main"))
    await go(box.files.write(f"{path}/README", "two\n"))
    await go(box.git.add(path, files=["README"]))
    await go(box.git.commit(path, "second"))
    await go(box.git.push(path))
    await go(box.git.pull(f"{place}/clone"))
    assert await go(box.files.read(f"{place}/clone/README")) == "two\n"


@covers("git.clone")
async def test_clone_without_depth_and_with(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.git.commit(path, "empty", allow_empty=True))
    await go(box.git.clone(f"file://{path}", path=f"{place}/shallow", depth=1))
    assert await sdk.output(box, f"git -C {place}/shallow rev-list --count HEAD") == "1"


@covers("git.clone")
async def test_clone_that_needs_password_raises(sdk: Sdk, box: Any, place: str) -> None:
    script = (
        "import http.server as h\n"
        "class R(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(401)\n"
        "        self.send_header('WWW-Authenticate', 'Basic realm=x')\n"
        "        self.send_header('Content-Length', '0')\n"
        "        self.end_headers()\n"
        "h.HTTPServer(('127.0.0.1', 8418), R).serve_forever()\n"
    )
    await go(box.files.write(f"{place}/server.py", script))
    server = await sdk.start(box, f"python3 {place}/server.py")
    await go(box.commands.run("timeout 100 sh -c 'until ss -ltn | grep -q :8418; do sleep 0.1; done'", timeout=120))
    with pytest.raises(e2b.GitAuthException):
        await go(box.git.clone("http://127.0.0.1:8418/x.git", path=f"{place}/x"))
    await go(server.kill())


@covers("git.pull")
async def test_pull_without_upstream_raises(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    with pytest.raises(e2b.GitUpstreamException):
        await go(box.git.pull(path))


@covers("git.reset")
async def test_reset_unstages(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.files.write(f"{path}/README", "two\n"))
    await go(box.git.add(path))
    await go(box.git.reset(path, mode="hard", target="HEAD"))
    assert await go(box.files.read(f"{path}/README")) == "one\n"


@covers("git.restore")
async def test_restore_brings_file_back(sdk: Sdk, box: Any, place: str) -> None:
    path = await repository(sdk, box, place)
    await go(box.files.write(f"{path}/README", "two\n"))
    await go(box.git.restore(path, ["README"]))
    assert (await go(box.git.status(path))).is_clean


@covers("git.dangerously_authenticate")
async def test_credentials_are_stored_in_sandbox(sdk: Sdk, box: Any) -> None:
    await go(box.git.dangerously_authenticate("name", "secret", host="git.example.com"))
    question = "protocol=https\nhost=git.example.com\n\n"
    shown = await sdk.output(box, f"printf '%s' '{question}' | git credential fill")
    assert "username=name" in shown
    assert "password=secret" in shown
