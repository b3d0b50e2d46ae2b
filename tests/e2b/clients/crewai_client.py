"""The tools of CrewAI run commands and edit files in a sandbox that stays."""

from __future__ import annotations

import os

# Its traces would go to the internet.
os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true", "CREWAI_TRACING_ENABLED": "false"}

from crewai_tools import E2BExecTool, E2BFileTool

shell = E2BExecTool(persistent=True, sandbox_timeout=900, envs={"FROM": "tool"})
try:
    done = shell.run(command="echo $FROM; pwd", cwd="/tmp")
    assert (done["exit_code"], done["stdout"]) == (0, "tool\n/tmp\n"), done
    assert shell.run(command="echo again")["stdout"] == "again\n"
finally:
    shell.close()

# Its action "append" writes a bytearray, which version 2.20 of e2b refuses before it sends anything.
files = E2BFileTool(persistent=True, sandbox_timeout=900)
try:
    files.run(action="write", path="/home/user/d/a.txt", content="one\n")
    assert files.run(action="read", path="/home/user/d/a.txt")["content"] == "one\n"
    assert files.run(action="exists", path="/home/user/missing")["exists"] is False
    assert [entry["name"] for entry in files.run(action="list", path="/home/user/d")["entries"]] == ["a.txt"]
finally:
    files.close()

once = E2BExecTool(sandbox_timeout=900)
assert once.run(command="echo once")["stdout"] == "once\n"
