#!/usr/bin/env python3
"""Runs published clients of E2B against the server that E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY name.

run.py [--all] [--update] [--install] [--jobs N] [NAME…]: by default the parts that clients.json calls quick, of them
old versions of the SDKs in one face and without their git helpers, which are commands; else all or those named, such
as `python-2.63.0`. Packages are installed into target/venv and target/node, by uv, and stay there. Each part ends with
a line as `cargo test` has it. In the end comes the matrix of versions and calls, which has to be the one of
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
# The longest that a part may take, without its installation. One test may take four minutes.
PART_SEC = 1500
INSTALL_SEC = 1200
# Installations at the same time: most of each is waiting for the network.
INSTALLERS = 4
# Of many versions with many packages in common, it takes a tenth of pip's time.
UV = "uv==0.9.13"
BEGIN = "<!-- The matrix: written by scripts/test-e2b.sh --all --update. -->"
END = "<!-- The end of the matrix. -->"
# What a part needs that measures, or that fills the machine.
ALONE = "the machine"
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
    # Template beside the base images that it needs, or the machine for itself; it runs only where it is named.
    needs: str | None = None
    # Of the Python SDK.
    faces: tuple[str, ...] = ("sync", "async")
    # Groups of calls that are left out.
    without: tuple[str, ...] = ()
    calls: Calls | None = None
    # Why its packages could not be installed.
    error: str | None = None

    @property
    def place(self) -> pathlib.Path:
        return ROOT / "target" / {"python": "venv", "javascript": "node"}[self.language] / f"e2b-{self.name}"

    def is_possible(self) -> bool:
        return sys.version_info >= self.min_python

    def is_installed(self) -> bool:
        stamp = self.place / "requirements"
        return stamp.is_file() and stamp.read_text().split() == self.requirements

    def try_install(self) -> None:
        """Installs the packages, or notes why it could not."""
        try:
            self.install()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            self.error = str(error)

    def install(self) -> None:
        """Installs the packages, unless they are there."""
        if self.is_installed() or not self.is_possible():
            return
        say(f"{self.name}: installing {' '.join(self.requirements)} into {self.place.relative_to(ROOT)}")
        shutil.rmtree(self.place, ignore_errors=True)
        if self.language == "python":
            uv = str(ROOT / "target/venv/uv/bin/uv")
            cache = {"UV_CACHE_DIR": str(ROOT / "target/venv/uv/cache")}
            run([uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(self.place)], **cache)
            pip = [uv, "pip", "install", "--quiet", "--python", str(self.place / "bin/python")]
            run([*pip, *self.requirements], **cache)
        else:
            self.place.mkdir(parents=True)
            (self.place / "package.json").write_text('{"private": true}\n')
            npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            run([*npm, "--prefix", str(self.place), *self.requirements])
        (self.place / "requirements").write_text("\n".join(self.requirements) + "\n")

    def command(self) -> list[str]:
        if self.runs:
            return [self.runs, str(HERE / "clients" / self.script)]
        if self.language == "python":
            python = str(self.place / "bin/python")
            if self.script:
                return [python, str(HERE / "clients" / self.script)]
            left_out = [f"--ignore={HERE}/python/test_{group}.py" for group in self.without]
            return [python, "-m", "pytest", *left_out, str(HERE / "python")]
        script = HERE / "clients" / self.script if self.script else HERE / "javascript/main.mjs"
        return ["node", "--test-reporter", "spec", str(script)]


def say(text: str) -> None:
    print(text, flush=True)


def install_uv() -> None:
    place = ROOT / "target/venv/uv"
    stamp = place / "requirements"
    if stamp.is_file() and stamp.read_text() == UV:
        return
    shutil.rmtree(place, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(place)])
    run([str(place / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", UV])
    stamp.write_text(UV)


def install_all(parts: list[Part]) -> None:
    """Installs the packages of all parts; those that cannot be installed have an error then."""
    if any(part.language == "python" and not part.is_installed() for part in parts):
        install_uv()
    with concurrent.futures.ThreadPoolExecutor(INSTALLERS) as pool:
        list(pool.map(Part.try_install, parts))


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command,
        timeout=INSTALL_SEC,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        check=False,
    )
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
    if part.error:
        log.write_text(part.error)
        status = 1
    else:
        with log.open("wb") as output:
            status = run_bounded(part, output, results)
    passed, failed, left_out = read_results(part, results, status)
    seconds = time.monotonic() - began
    text = log.read_text(errors="replace")
    if failed or part.needs == ALONE:
        say(f"--- {part.name}\n{text}")
    if failed:
        say(f"test e2b::{part.name} ... FAILED")
    note = f"; the version lacks {left_out} calls" if left_out else ""
    say(f"--- {part.name}: {seconds:.0f} s{note}")
    say(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed")
    return passed, failed


def run_bounded(part: Part, output: object, results: pathlib.Path) -> int:
    environment = dict(os.environ)
    environment |= {"E2B_TEST_RESULTS": str(results), "E2B_TEST_PACKAGE": str(part.place)}
    environment |= {"PYTHONUNBUFFERED": "1", "NO_UPDATE_NOTIFIER": "1", "E2B_TEST_FACES": " ".join(part.faces)}
    environment["E2B_TEST_WITHOUT"] = " ".join(part.without)
    # Not beside the sources, and not of all modules, as installing them would.
    environment["PYTHONPYCACHEPREFIX"] = str(part.place / "bytecode")
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


def cell_of(part: Part, label: str, known: str) -> str:
    """Returns what was found of a call, or what is known of one that was not run."""
    if part.calls is None or label.split(".")[0] in part.without:
        return known
    return cell(part.calls.get(label))


def matrix(parts: list[Part], known: dict[tuple[str, str, str], str]) -> str:
    """Returns the tables as Markdown: what was run, and what the page knows of the rest."""
    text = []
    for language, title in (("python", "Python, sync and async"), ("javascript", "JavaScript")):
        versions = {version for found, _, version in known if found == language}
        columns = [part for part in parts if part.language == language and not part.script]
        columns = [part for part in columns if part.calls is not None or part.version in versions]
        labels = {label for part in columns for label in part.calls or {}}
        labels |= {label for found, label, _ in known if found == language}
        text += [f"### {title}", "", f"| call | {' | '.join(part.version for part in columns)} |"]
        text += ["|---" * (len(columns) + 1) + "|"]
        for label in sorted(labels, key=lambda label: (label.split(".")[0].lower(), label)):
            cells = [cell_of(part, label, known.get((language, label, part.version), "?")) for part in columns]
            text.append(f"| `{label}` | {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text)


def read_page() -> str:
    """Returns the section of the page that has the matrix."""
    return PAGE.read_text().split(BEGIN)[1].split(END)[0].strip()


def read_cells(section: str) -> dict[tuple[str, str, str], str]:
    """Returns the cells of the tables by language, call and version."""
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
    return known


def check_page(parts: list[Part], update: bool) -> bool:
    section = read_page()
    known = read_cells(section)
    found = matrix(parts, known).strip()
    if update:
        say(f"\n{found}\n")
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{found}\n\n{END}{after}")
        return True
    if found == section:
        return True
    say("docs/e2b.md has another matrix: scripts/test-e2b.sh --all --update writes it")
    now = read_cells(found)
    for place in sorted(known.keys() | now.keys()):
        before, after = (cells.get(place, "nothing") for cells in (known, now))
        if before != after:
            language, label, version = place
            say(f"  {label} of {language} {version}: {before} there, {after} here")
    return False


def choose(parts: list[Part], options: argparse.Namespace) -> list[Part]:
    """Returns the parts to run, those first that take longest."""
    if options.names:
        chosen = [part for part in parts if part.name in options.names]
    else:
        chosen = [part for part in parts if not part.needs and (options.all or part.quick)]
        newest = {part.language: part.name for part in parts if not part.script}
        for part in chosen:
            if not options.all and not part.script and part.name != newest[part.language]:
                part.faces = ("sync",)
                part.without = ("git",)
    return sorted(chosen, key=lambda part: (bool(part.script), len(part.without), part.language != "python"))


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
    chosen = choose(parts, options)
    install_all(chosen)
    if options.install:
        errors = [f"{part.name}: {part.error}" for part in chosen if part.error]
        say("\n".join(errors) or "all packages are there")
        return 1 if errors else 0
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
