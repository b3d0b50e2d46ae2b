"""Sandboxes of a Wrenn server for the OpenAI Agents SDK.

```python
from agents.run import RunConfig
from agents.sandbox import SandboxRunConfig
from wrenn_openai_agents import WrennSandboxClient, WrennSandboxClientOptions

options = WrennSandboxClientOptions(template="minimal")
RunConfig(sandbox=SandboxRunConfig(client=WrennSandboxClient(), options=options))
```
"""

from .client import WrennSandboxClient, WrennSandboxClientOptions
from .session import WrennSandboxSession, WrennSandboxSessionState

__all__ = [
    "WrennSandboxClient",
    "WrennSandboxClientOptions",
    "WrennSandboxSession",
    "WrennSandboxSessionState",
]
