"""Large data each way: identical, with bounded memory."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parent / "large.py"
MOST_MB = 24
"""Queues and buffers of a few streams; a single copy of the data would be twice that."""


LONG = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("mode", "ways"),
    [("blocking", ["file", "socket", "stream"]), ("awaited", ["socket", "stream"])],
)
@pytest.mark.parametrize("size", [5_000_000, pytest.param(50_000_000, marks=LONG)])
def test_large_data_is_identical_and_bounded(
    mode: str, ways: list[str], size: int, shared_id: str
) -> None:
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), mode, shared_id, str(size)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100 if size < 10_000_000 else 580,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["done"] == ways
    assert told["wrong"] == []
    assert told["growth_mb"] < MOST_MB
