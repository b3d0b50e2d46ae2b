"""The command line of E2B does what it does without its vendor's cloud."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

PROGRAM = pathlib.Path(os.environ["E2B_TEST_PACKAGE"]) / "node_modules/.bin/e2b"
COMMAND_SEC = 240


def e2b(*arguments: str, stdin: str = "", code: int = 0) -> str:
    """Runs a command and returns what it writes."""
    done = subprocess.run(
        [str(PROGRAM), *arguments], input=stdin, capture_output=True, text=True, timeout=COMMAND_SEC, check=False
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sandbox(*arguments: str, **options: object) -> str:
    return e2b("sandbox", *arguments, **options)


def listed(*options: str) -> list[str]:
    return [one["sandboxId"] for one in json.loads(sandbox("list", "--format", "json", *options))]


sandbox_id = sandbox("create", "--detach", "--timeout", "900").strip()
try:
    assert sandbox_id in listed()
    info = json.loads(sandbox("info", "--format", "json", sandbox_id))
    assert info["sandboxId"] == sandbox_id, info
    assert info["state"] == "running", info

    assert sandbox("exec", sandbox_id, "echo", "hello") == "hello\n"
    options = ["--cwd", "/tmp", "--user", "root", "--env", "A=1"]
    assert sandbox("exec", *options, sandbox_id, "sh", "-c", "echo $A; pwd; whoami") == "1\n/tmp\nroot\n"
    assert sandbox("exec", sandbox_id, "cat", stdin="through stdin\n") == "through stdin\n"
    sandbox("exec", sandbox_id, "sh", "-c", "exit 7", code=7)

    sandbox("logs", sandbox_id)
    sandbox("metrics", sandbox_id)
    sandbox("pause", sandbox_id)
    assert sandbox_id in listed("--state", "paused")
    sandbox("resume", sandbox_id)
    assert sandbox_id in listed("--state", "running")
    assert sandbox("exec", sandbox_id, "echo", "again") == "again\n"

    snapshot = sandbox("snapshot", "create", sandbox_id)
    assert sandbox("snapshot", "list", sandbox_id).count("\n") > 1, snapshot
    e2b("template", "list")
finally:
    sandbox("kill", sandbox_id)
assert sandbox_id not in listed("--state", "running,paused")
