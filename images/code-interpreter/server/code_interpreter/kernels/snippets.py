"""Code that changes a kernel between cells. It leaves no names behind in the variables of the user."""

from __future__ import annotations

import json
import secrets


def configure(language: str, set_vars: dict[str, str], unset_vars: list[str], reseed: bool) -> str:
    """Returns code that sets and removes environment variables and draws new random states; empty if none can."""
    if language == "python":
        return _configure_python(set_vars, unset_vars, reseed)
    if language == "r":
        return _configure_r(set_vars, unset_vars, reseed)
    return ""


def preload(modules: list[str]) -> str:
    """Returns Python code that imports modules."""
    return f"__import__('code_interpreter.ipython.preload').ipython.preload.preload({modules!r})"


def _configure_python(set_vars: dict[str, str], unset_vars: list[str], reseed: bool) -> str:
    lines = []
    if set_vars:
        lines.append(f"__import__('os').environ.update({set_vars!r})")
    for name in unset_vars:
        lines.append(f"__import__('os').environ.pop({name!r}, None)")
    if reseed:
        lines.append("__import__('code_interpreter.ipython.reseed').ipython.reseed.reseed()")
    return "\n".join(lines)


def _configure_r(set_vars: dict[str, str], unset_vars: list[str], reseed: bool) -> str:
    lines = [f"Sys.setenv({name} = {_r_string(value)})" for name, value in set_vars.items()]
    lines += [f"Sys.unsetenv({_r_string(name)})" for name in unset_vars]
    if reseed:
        lines.append(f"if (exists('.Random.seed', globalenv())) set.seed({secrets.randbelow(2**31)})")
    return "\n".join(lines)


def _r_string(text: str) -> str:
    # R knows \u up to four digits, so that characters beyond stay as they are.
    escaped = json.dumps(text, ensure_ascii=False)
    return escaped.replace("\x7f", "\\x7f")
