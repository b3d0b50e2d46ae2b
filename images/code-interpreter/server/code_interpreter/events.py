"""Events of an execution, and their lines as the SDKs read them."""

from __future__ import annotations

import datetime
import json
import math
from typing import Any

Event = dict[str, Any]

# Fields of a result by MIME type; other types go into `extra` under their own name.
FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}
KEEPALIVE: Event = {"type": "keepalive"}
END: Event = {"type": "end_of_execution"}


def output(stream: str, text: str) -> Event:
    """Creates the event of text on `stdout` or `stderr`."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"type": stream, "text": text, "timestamp": now.isoformat()}


def error(name: str, value: str, traceback: str = "") -> Event:
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def execution_count(count: int) -> Event:
    return {"type": "number_of_executions", "execution_count": count}


def result(bundle: dict[str, Any], is_main: bool) -> Event:
    """Creates the event of a MIME bundle. Empty charts are left out, as are fields that are not there."""
    event: Event = {"type": "result", "is_main_result": is_main}
    extra: dict[str, Any] = {}
    for mime, value in bundle.items():
        field = FIELDS.get(mime)
        if field is None:
            extra[mime] = value
        elif field == "text" and isinstance(value, str):
            event[field] = without_quotes(value)
        elif value not in (None, {}) or field == "json":
            event[field] = value
    if extra:
        event["extra"] = extra
    return event


def without_quotes(text: str) -> str:
    """Removes the quotes around the representation of a string, and nothing else: escapes stay."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text


def encode_line(event: Event) -> bytes:
    """Writes an event as a line. In ASCII: the JavaScript SDK decodes each chunk by itself, wherever it is cut."""
    try:
        text = json.dumps(event, allow_nan=False)
    except ValueError:
        text = json.dumps(without_nan(event))
    return text.encode() + b"\n"


def without_nan(value: Any) -> Any:
    """Replaces numbers that JSON cannot have by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value
