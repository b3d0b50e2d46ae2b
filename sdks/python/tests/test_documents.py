"""The documents and the package say the same."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import wrenn_sandbox
from wrenn_sandbox import Client, Sandbox, errors
from wrenn_sandbox._operations import OPERATIONS

ROOT = pathlib.Path(__file__).parents[3]
TABLE = (ROOT / "sdks" / "README.md").read_text()


def test_every_operation_has_names() -> None:
    first_cells = " ".join(line.split("|")[1] for line in TABLE.splitlines() if line[:1] == "|")
    named = set(re.findall(r"`(\w+)`", first_cells))
    assert set(OPERATIONS) - named == set()


def test_every_name_is_there() -> None:
    client = Client("http://127.0.0.1:1", "wrn_1")
    sandbox = Sandbox("sb-1", client._connection)
    roots = {"client": client, "sandbox": sandbox}
    names = re.findall(r"`((?:sandbox|client|Sandbox|Template)(?:\.[a-z_]+)+)\(", TABLE)
    assert len(names) > 80
    snake = [name for name in names if name == name.lower() or name[0].isupper()]
    for name in snake:
        if re.search(r"\.[a-z]+[A-Z]", name):
            continue
        first, *rest = name.split(".")
        value = roots.get(first) or getattr(wrenn_sandbox, first)
        for part in rest:
            assert hasattr(value, part), name
            value = getattr(value, part)
    client.close()


def test_every_code_has_a_class() -> None:
    documented = re.findall(r"^\| `(\w+)` \| \d+ ", (ROOT / "docs" / "errors.md").read_text(), re.M)
    assert set(documented) == set(errors.BY_CODE)
    for code, kind in errors.BY_CODE.items():
        assert re.search(rf"^\| `{code}` \| `{kind.__name__}` ", TABLE, re.M), code


def python_blocks() -> list[str]:
    text = (ROOT / "sdks" / "python" / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.S)


EXPECTED = [
    "hi\n\n42\n 0\n",
    "hi\n\n",
    "1\n2\n3\n3 no\n\nping\n\ndone\n\n",
    "before\nbefore\n",
]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_readme_runs_as_written(number: int) -> None:
    blocks = python_blocks()
    assert len(blocks) == len(EXPECTED)
    ran = subprocess.run(
        [sys.executable, "-"],
        input=blocks[number],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == EXPECTED[number]


@pytest.mark.long
def test_package_installs_into_clean_venv(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    ignored = ("*.egg-info", "build", "__pycache__", ".mypy_cache", ".ruff_cache")
    shutil.copytree(ROOT / "sdks" / "python", source, ignore=shutil.ignore_patterns(*ignored))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = str(tmp_path / "venv" / "bin" / "pip")
    options = ["--disable-pip-version-check", "--quiet"]
    subprocess.run([pip, *options, "install", str(source)], check=True)
    program = (
        "import importlib.resources, wrenn_sandbox\n"
        "assert importlib.resources.files(wrenn_sandbox).joinpath('py.typed').is_file()\n"
        "print(wrenn_sandbox.Sandbox.__module__, wrenn_sandbox.AsyncSandbox.__module__)"
    )
    python = tmp_path / "venv" / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ran = subprocess.run(
        [python, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert ran.stdout == "wrenn_sandbox._sync.sandbox wrenn_sandbox._async.sandbox\n"
