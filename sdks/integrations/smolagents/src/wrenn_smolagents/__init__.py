"""An executor for smolagents: the code that an agent writes runs in a Wrenn sandbox.

```python
from smolagents import CodeAgent
from wrenn_smolagents import WrennExecutor

with WrennExecutor() as executor:
    agent = CodeAgent(tools=[], model=model, executor=executor)
```
"""

from .executor import WrennExecutor

__all__ = ["WrennExecutor"]
