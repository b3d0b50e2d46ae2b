"""What the tests of the packages in Python have in common."""

from __future__ import annotations

import contextlib
import io
import pathlib
import re
from typing import Any


def read_blocks(package: pathlib.Path, language: str = "python") -> list[str]:
    """Returns the examples in the README of a package, in their order."""
    text = (package / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def run_block(block: str, **names: Any) -> str:
    """Runs an example as it is written, with `names` that its text says are there; its output."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__", **names})
    return output.getvalue()
