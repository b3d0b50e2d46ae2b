"""Node as a kernel for JavaScript and TypeScript; the other side is `node/kernel.cjs`."""

from __future__ import annotations

import json
import os
from typing import Any

from .. import events
from ..execution import Execution
from .process import ProcessKernel

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "node", "kernel.cjs")


class NodeKernel(ProcessKernel):
    def command(self, requests: int, lines: int) -> list[str]:
        return ["node", "--no-warnings", SCRIPT, str(requests), str(lines)]

    def first_request(self) -> bytes:
        return encode({"type": "ping"})

    async def execute(self, code: str, execution: Execution) -> None:
        await self.run_request(encode({"type": "execute", "language": self.language, "code": code}), execution)

    async def configure(self, set_vars: dict[str, str], unset_vars: list[str], reseed: bool) -> None:
        # Random states cannot be set; contexts start the process late, so that none is in a template.
        if set_vars or unset_vars:
            await self._run(encode({"type": "configure", "set": set_vars, "unset": unset_vars}), Execution())

    def handle_line(self, line: bytes, execution: Execution) -> bool:
        message: dict[str, Any] = json.loads(line)
        kind = message["type"]
        if kind == "result":
            execution.publish(events.result(message["bundle"], message["main"]))
        elif kind == "error":
            execution.publish(events.error(message["name"], message["value"], message["traceback"]))
        return bool(kind == "done")


def encode(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode() + b"\n"
