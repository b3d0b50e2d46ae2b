"""Bash as a kernel: an interactive shell without a terminal, which reads commands from a pipe.

Interactive, since only such a shell drops the rest of a cell at SIGINT and then reads on. A cell is `eval`uated, and
the next command writes its exit status. One other than 0 is an error of that value, as with Jupyter's kernel for bash.
"""

from __future__ import annotations

import secrets

from .. import events
from ..execution import Execution
from .process import ProcessKernel

SETTINGS = "PS1= PS2= PS4='+ '; unset PROMPT_COMMAND HISTFILE MAILCHECK; set +H +m"


class BashKernel(ProcessKernel):
    reads_stdin = True

    def command(self, requests: int, lines: int) -> list[str]:
        self._lines_fd = lines
        return ["bash", "--norc", "--noprofile", "--noediting", "-i"]

    def first_request(self) -> bytes:
        return self._request(SETTINGS)

    async def execute(self, code: str, execution: Execution) -> None:
        if "\0" in code:
            execution.fail("SyntaxError", "bash takes no NUL characters")
            return
        await self.run_request(self._request(code), execution)

    async def configure(self, set_vars: dict[str, str], unset_vars: list[str], reseed: bool) -> None:
        lines = [f"export {name}={quote(value)}" for name, value in set_vars.items()]
        lines += [f"unset {name}" for name in unset_vars]
        if reseed:
            lines.append(f"RANDOM={secrets.randbelow(2**15)}")
        if lines:
            await self._run(self._request("\n".join(lines)), Execution())

    def _request(self, code: str) -> bytes:
        # Cells, and what they start, have no descriptor of this server. The status is written by a line of its own:
        # SIGINT drops the line that runs.
        lines = self._lines_fd
        return f"eval {quote(code)} </dev/null {lines}>&-\nprintf '%s\\n' \"$?\" >&{lines}\n".encode()

    def handle_line(self, line: bytes, execution: Execution) -> bool:
        status = line.decode()
        if status == "130":
            execution.publish(events.error("KeyboardInterrupt", "the cell was interrupted"))
        elif status != "0":
            execution.publish(events.error("ExitStatus", status))
        return True

    def publish_end(self, execution: Execution) -> None:
        status = self.exit_status()
        if status is None or status < 0:
            super().publish_end(execution)
            return
        # `exit` at the end of a script is no failure; what the next cell has is told all the same.
        execution.publish(events.output("stderr", "[the shell has exited; the next cell has a new one]\n"))
        if status != 0:
            execution.publish(events.error("ExitStatus", str(status)))
        execution.finish()


def quote(text: str) -> str:
    """Writes text as a word of bash, on one line."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"$'{escaped}'"
