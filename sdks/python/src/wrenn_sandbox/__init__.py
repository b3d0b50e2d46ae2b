"""Sandboxes of a Wrenn server: microVMs that run untrusted code.

```python
from wrenn_sandbox import Sandbox

with Sandbox.create() as sandbox:
    print(sandbox.commands.run("echo hi").stdout)
```

Each class is here twice: `Sandbox` blocks, `AsyncSandbox` is awaited.
"""

from . import errors, models
from ._async.checkpoints import AsyncCheckpoints
from ._async.client import AsyncClient
from ._async.commands import AsyncCommands, AsyncPty
from ._async.connection import AsyncByteStream
from ._async.events import AsyncEvents, AsyncEventStream
from ._async.files import AsyncFiles
from ._async.handles import AsyncCommandHandle
from ._async.logs import AsyncLogs
from ._async.sandbox import (
    AsyncSandbox,
    AsyncSandboxPaginator,
    AsyncTemplate,
)
from ._async.watch import AsyncWatch
from ._async.webhooks import AsyncWebhooks
from ._models import AutoCheckpoint, NetworkRules, SandboxInfo, SupervisedCommand
from ._sync.checkpoints import Checkpoints
from ._sync.client import Client
from ._sync.commands import Commands, Pty
from ._sync.connection import ByteStream
from ._sync.events import Events, EventStream
from ._sync.files import Files
from ._sync.handles import CommandHandle
from ._sync.logs import Logs
from ._sync.sandbox import Sandbox, SandboxPaginator, Template
from ._sync.watch import Watch
from ._sync.webhooks import Webhooks
from ._values import (
    CommandOutput,
    CommandResult,
    DiffResult,
    OutputChunk,
    OutputPart,
    PtySize,
    SearchMatch,
    SearchResult,
    WatchEvent,
    WriteEntry,
)
from .errors import *  # noqa: F403

__all__ = [
    "AsyncByteStream",
    "AsyncCheckpoints",
    "AsyncClient",
    "AsyncCommandHandle",
    "AsyncCommands",
    "AsyncEventStream",
    "AsyncEvents",
    "AsyncFiles",
    "AsyncLogs",
    "AsyncPty",
    "AsyncSandbox",
    "AsyncSandboxPaginator",
    "AsyncTemplate",
    "AsyncWatch",
    "AsyncWebhooks",
    "AutoCheckpoint",
    "ByteStream",
    "Checkpoints",
    "Client",
    "CommandHandle",
    "CommandOutput",
    "CommandResult",
    "Commands",
    "DiffResult",
    "EventStream",
    "Events",
    "Files",
    "Logs",
    "NetworkRules",
    "OutputChunk",
    "OutputPart",
    "Pty",
    "PtySize",
    "Sandbox",
    "SandboxInfo",
    "SandboxPaginator",
    "SearchMatch",
    "SearchResult",
    "SupervisedCommand",
    "Template",
    "Watch",
    "WatchEvent",
    "Webhooks",
    "WriteEntry",
    "errors",
    "models",
]
__all__ += errors.__all__
