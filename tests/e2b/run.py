#!/usr/bin/env python3
"""Runs published clients of E2B against the server that E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY name.

run.py [--all] [--update] [--install] [--jobs N] [NAME…]: by default the parts that clients.json calls quick, else all or those
named, such as `python-2.63.0`. Packages are installed into target/venv and target/node and stay there. Each part ends
with a line as `cargo test` has it. In the end comes the matrix of versions and calls, which has to be the one of
docs/e2b.md in what was run; `--update` writes it there. With `--install` the packages are installed and nothing runs.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs/e2b.md"
LOGS = ROOT / "target/test-logs/e2b"
# The longest that a part may take, without its installation. One test may take a minute.
PART_SEC = 600
INSTALL_SEC = 1200
BEGIN = "<!-- The matrix: written by scripts/test-e2b.sh --all --update. -->"
END = "<!-- The end of the matrix. -->"
# Process groups that run.
GROUPS: set[int] = set()

# What became of a call in each face: whether its tests passed, the status that refuses it, or None if the version lacks
# it.
Calls = dict[str, dict[str, bool | str | None]]


@dataclasses.dataclass
class Part:
    """A version of a client, or a program that uses one."""

    name: str
    language: str
    version: str
    requirements: list[str]
    quick: bool
    script: str | None = None
    min_python: tuple[int, int] = (3, 0)
    runs: str | None = None
    # Template beside the base images that it needs; the part runs only where it is named.
    needs: str | None = None
    calls: Calls | None = None

    @property
    def place(self) -> pathlib.Path:
        return ROOT / "target" / {"python": "venv", "javascript": "node"}[self.language] / f"e2b-{self.name}"

    def is_possible(self) -> bool:
        return sys.version_info >= self.min_python

    def is_installed(self) -> bool:
        stamp = self.place / "requirements"
        return stamp.is_file() and stamp.read_text().split() == self.requirements

    def install(self) -> None:
        """Installs the packages, unless they are there."""
        if self.is_installed() or not self.is_possible():
            return
        say(f"{self.name}: installing {' '.join(self.requirements)} into {self.place.relative_to(ROOT)}")
        shutil.rmtree(self.place, ignore_errors=True)
        if self.language == "python":
            run([sys.executable, "-m", "venv", str(self.place)])
            pip = [str(self.place / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, *self.requirements])
        else:
            self.place.mkdir(parents=True)
            (self.place / "package.json").write_text('{"private": true}\n')
            npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            run([*npm, *self.requirements], cwd=self.place)
        (self.place / "requirements").write_text("\n".join(self.requirements) + "\n")

    def command(self) -> list[str]:
        if self.runs:
            return [self.runs, str(HERE / "clients" / self.script)]
        if self.language == "python":
            python = str(self.place / "bin/python")
            if self.script:
                return [python, str(HERE / "clients" / self.script)]
            return [python, "-m", "pytest", str(HERE / "python")]
        script = HERE / "clients" / self.script if self.script else HERE / "javascript/main.mjs"
        return ["node", "--test-reporter", "spec", str(script)]


def say(text: str) -> None:
    print(text, flush=True)


def run(command: list[str], **options: object) -> None:
    done = subprocess.run(command, timeout=INSTALL_SEC, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout.decode(errors='replace')}")


def read_parts() -> list[Part]:
    config = json.loads((HERE / "clients.json").read_text())
    parts = []
    for language in ("python", "javascript"):
        for version in config[language]["versions"]:
            package = f"e2b=={version}" if language == "python" else f"e2b@{version}"
            requirements = [package, *config[language]["requirements"]]
            quick = version in config[language]["quick"]
            parts.append(Part(f"{language}-{version}", language, version, requirements, quick))
    for name, client in config["clients"].items():
        parts.append(
            Part(
                name,
                client["language"],
                client["requirements"][0],
                client["requirements"],
                client["quick"],
                client["script"],
                tuple(client.get("min_python", (3, 0))),
                client.get("runs"),
                client.get("needs"),
            )
        )
    return parts


def run_part(part: Part) -> tuple[int, int]:
    """Runs a part and returns how many of its tests passed and failed."""
    if not part.is_possible():
        say(f"test e2b::{part.name} ... left out: it needs Python {'.'.join(map(str, part.min_python))}")
        return 0, 0
    began = time.monotonic()
    log = LOGS / f"{part.name}.log"
    results = LOGS / f"{part.name}.json"
    results.unlink(missing_ok=True)
    try:
        part.install()
        with log.open("wb") as output:
            status = run_bounded(part, output, results)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        log.write_text(str(error))
        status = 1
    passed, failed, left_out = read_results(part, results, status)
    seconds = time.monotonic() - began
    text = log.read_text(errors="replace")
    if failed:
        say(f"--- {part.name}\n{text}\ntest e2b::{part.name} ... FAILED")
    note = f"; the version lacks {left_out} calls" if left_out else ""
    say(f"--- {part.name}: {seconds:.0f} s{note}")
    say(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed")
    return passed, failed


def run_bounded(part: Part, output: object, results: pathlib.Path) -> int:
    environment = dict(os.environ)
    environment |= {"E2B_TEST_RESULTS": str(results), "E2B_TEST_PACKAGE": str(part.place)}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "NO_UPDATE_NOTIFIER": "1"}
    # A group of its own, so that all of it can be ended.
    process = subprocess.Popen(
        part.command(),
        cwd=HERE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    GROUPS.add(process.pid)
    try:
        return process.wait(PART_SEC)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        output.write(f"\n{part.name} takes longer than {PART_SEC} s\n".encode())
        return 1
    finally:
        GROUPS.discard(process.pid)


def end_all(*_: object) -> None:
    """Ends what runs."""
    for group in list(GROUPS):
        os.killpg(group, signal.SIGKILL)
    os._exit(130)


def read_results(part: Part, results: pathlib.Path, status: int) -> tuple[int, int, int]:
    """Returns how many tests passed and failed, and how many calls the version lacks."""
    if part.script:
        return (0, 1, 0) if status else (1, 0, 0)
    try:
        found = json.loads(results.read_text())
    except (OSError, ValueError):
        return 0, 1, 0
    part.calls = found["calls"]
    lacking = sum(all(outcome is None for outcome in faces.values()) for faces in part.calls.values())
    # A part that ended without running anything is not one that passed.
    failed = max(found["failed"], 1 if status or not found["passed"] else 0)
    return found["passed"], failed, lacking


def cell(faces: dict[str, bool | str | None] | None) -> str:
    outcomes = {outcome for outcome in (faces or {}).values() if outcome is not None}
    if not outcomes:
        return "–"
    if False in outcomes:
        return "no"
    return next((outcome for outcome in outcomes if isinstance(outcome, str)), "yes")


def matrix(parts: list[Part], known: dict[tuple[str, str, str], str]) -> str:
    """Returns the tables as Markdown: what was run, and what the page knows of the rest."""
    text = []
    for language, title in (("python", "Python, sync and async"), ("javascript", "JavaScript")):
        columns = [part for part in parts if part.language == language and not part.script]
        labels = {label for part in columns for label in part.calls or {}}
        labels |= {label for found, label, _ in known if found == language}
        text += [f"### {title}", "", f"| call | {' | '.join(part.version for part in columns)} |"]
        text += ["|---" * (len(columns) + 1) + "|"]
        for label in sorted(labels, key=lambda label: (label.split(".")[0].lower(), label)):
            cells = [
                known.get((language, label, part.version), "?") if part.calls is None else cell(part.calls.get(label))
                for part in columns
            ]
            text.append(f"| `{label}` | {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text)


def read_page() -> tuple[str, dict[tuple[str, str, str], str]]:
    """Returns the section of the page, and its cells."""
    if not PAGE.is_file() or BEGIN not in PAGE.read_text():
        return "", {}
    section = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip()
    known: dict[tuple[str, str, str], str] = {}
    language, versions = "", []
    for line in section.splitlines():
        cells = [part.strip() for part in line.strip("|").split("|")]
        if line.startswith("### "):
            language = "python" if "Python" in line else "javascript"
        elif cells[0] == "call":
            versions = cells[1:]
        elif line.startswith("| `"):
            for version, value in zip(versions, cells[1:]):
                known[language, cells[0].strip("`"), version] = value
    return section, known


def check_page(parts: list[Part], update: bool) -> bool:
    section, known = read_page()
    found = matrix(parts, known).strip()
    say(f"\n{found}\n")
    if update:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{found}\n\n{END}{after}")
        return True
    if found == section:
        return True
    say("docs/e2b.md has another matrix: scripts/test-e2b.sh --all --update writes it")
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="run every part")
    parser.add_argument("--update", action="store_true", help="write the matrix into docs/e2b.md")
    parser.add_argument("--install", action="store_true", help="install the packages and run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="parts that run at the same time (default 2)")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()

    parts = read_parts()
    unknown = set(options.names) - {part.name for part in parts}
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(part.name for part in parts)}")
    chosen = [
        part
        for part in parts
        if part.name in options.names or (not options.names and not part.needs and (options.all or part.quick))
    ]
    if options.install:
        for part in chosen:
            part.install()
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, end_all)
    signal.signal(signal.SIGINT, end_all)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        failed = sum(bad for _, bad in pool.map(run_part, chosen))
    is_current = check_page(parts, options.update)
    say(f"test result: {'ok' if is_current else 'FAILED'}. {int(is_current)} passed; {int(not is_current)} failed")
    return 0 if is_current and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
