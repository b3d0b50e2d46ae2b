"""Sandboxes of a Wrenn server for Inspect AI: `sandbox="wrenn"` of a task.

Inspect finds it by its entry point; nothing has to be imported.
"""

from .environment import WrennConfig, WrennSandboxEnvironment

__all__ = ["WrennConfig", "WrennSandboxEnvironment"]
