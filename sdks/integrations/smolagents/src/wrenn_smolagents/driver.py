"""Runs cells of code in one namespace: the program that the executor starts in the sandbox.

It reads a line of JSON for each cell, `{"code": …, "mark": …}`, and answers with a line of JSON
on the standard output that it was started with. What the code writes goes to standard error,
which it is told apart by: `mark` ends it. Needs Python 3.9 alone, and nothing of this package.
"""

import ast
import base64
import contextlib
import io
import json
import linecache
import os
import signal
import sys
import traceback
from typing import Any

requests = os.fdopen(os.dup(0), encoding="utf-8")
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(line_buffering=True)

namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}


def run_cell(code: str) -> object:
    """Runs a cell, and returns the value of the expression at its end."""
    tree = ast.parse(code, name, "exec")
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, name, "exec"), namespace)
        return None
    tree.body.pop()
    exec(compile(tree, name, "exec"), namespace)
    return eval(compile(ast.Expression(last.value), name, "eval"), namespace)


def describe_value(value: Any) -> dict[str, str]:
    """Returns a value as text, or as a picture where it is one of Pillow."""
    if value is None:
        return {}
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(value).__mro__}
    if "PIL.Image.Image" in kinds:
        picture = io.BytesIO()
        value.save(picture, format="PNG")
        return {"png": base64.b64encode(picture.getvalue()).decode()}
    return {"text": repr(value)}


for number, line in enumerate(requests, 1):
    request = json.loads(line)
    name = f"<cell {number}>"
    # So that tracebacks have the lines.
    lines = request["code"].splitlines(True)
    linecache.cache[name] = (len(request["code"]), None, lines, name)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        answer = describe_value(run_cell(request["code"]))
    except BaseException as error:
        trace = traceback.TracebackException.from_exception(error)
        # The frames of this program are of no interest.
        trace.stack = traceback.StackSummary.from_list(
            [frame for frame in trace.stack if frame.filename != __file__]
        )
        answer = {
            "error": type(error).__name__,
            "value": str(error),
            "traceback": "".join(trace.format()),
        }
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os.write(2, request["mark"].encode())
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
