"""A backend of LangChain's Deep Agents: files and commands of an agent are in a Wrenn sandbox.

```python
from deepagents import create_deep_agent
from wrenn_langchain import WrennBackend
from wrenn_sandbox import Sandbox

with Sandbox.create() as sandbox:
    agent = create_deep_agent(model=model, backend=WrennBackend(sandbox))
```
"""

from .backend import WrennBackend

__all__ = ["WrennBackend"]
