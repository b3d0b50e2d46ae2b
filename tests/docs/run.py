"""Runs every command and every program of the guide, page by page: run.py WRENN PYTHON [PAGE…]

Each page begins without sandboxes and snapshots, in an empty directory, against the server of WRENN_API_URL with real
VMs. blocks.py says how a block is marked. Every block counts as a test.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import blocks as pages
from programs import Failure, Programs, Shell, run_program

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Blocks that are excused from running, by page. Whoever adds one changes the number here.
EXCUSED = {
    "code-interpreter.md": 1, "console.md": 1, "e2b.md": 1, "getting-started.md": 2, "metrics.md": 1,
    "operations.md": 1, "original-sdk.md": 1, "ssh.md": 3, "tracing.md": 1, "webhooks.md": 2,
}
# What pages say of a server that was just installed, and what that is here.
DIRECTORY = "/var/lib/wrenn"
ADDRESS = "127.0.0.1:8000"


def environment_of(wrenn):
    environment = dict(os.environ)
    environment["PATH"] = f"{pathlib.Path(wrenn).parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = str(ROOT / "sdks/python/src")
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return environment


def here(block):
    """The text of a block with the directory and the address of the server of this run."""
    address = os.environ["WRENN_API_URL"].removeprefix("http://")
    return block.text.replace(DIRECTORY, os.environ["WRENN_DIR"]).replace(ADDRESS, address)


def clean(wrenn):
    """Removes what the page before has made."""
    subprocess.run([wrenn, "rm", "--all"], check=True, stdout=subprocess.DEVNULL)
    listed = subprocess.run([wrenn, "snapshots", "--json"], check=True, capture_output=True, text=True)
    names = [snapshot["name"] for snapshot in json.loads(listed.stdout)]
    if names:
        subprocess.run([wrenn, "snapshots", "rm", *names], check=True, stdout=subprocess.DEVNULL)


class Page:
    """One page that is being run."""

    def __init__(self, path, blocks, programs, wrenn):
        self.path = path
        self.blocks = blocks
        self.programs = programs
        self.environment = environment_of(wrenn)
        self.directory = programs.work / "pages" / path.stem
        self.passed = 0

    def run(self):
        """Runs all of it, and returns a description of what failed first, or None."""
        self.directory.mkdir(parents=True)
        # The clone that the page about installing speaks of.
        (self.directory / "wrenn").symlink_to(ROOT)
        self.shell = Shell(self.directory, self.environment)
        output = ""
        try:
            for block in self.blocks:
                try:
                    output = self._run_block(block, output)
                except Failure as failure:
                    return f"{block.place}: {failure}"
        finally:
            self.shell.end()
        return None

    def _run_block(self, block, before):
        """Runs a block, and returns what it printed; `before` is what the block before it did."""
        if block.language == "json":
            self._check_json(block)
        elif block.language == "output":
            missing = pages.missing_line(here(block), before)
            if missing is not None:
                raise Failure(f"expected the line\n{missing}\nin\n{before}")
        elif not block.is_program:
            return ""
        self.passed += 1
        if not block.is_program:
            return ""
        begin = time.monotonic()
        if block.language == "sh":
            output = self.shell.run(here(block))
        else:
            output = run_program(self.programs.command(block), self.directory, self.environment)
        if time.monotonic() - begin > 20:
            print(f"{block.place} took {time.monotonic() - begin:.0f} s")
        return output

    @staticmethod
    def _check_json(block):
        try:
            json.loads(block.text)
        except ValueError as error:
            raise Failure(f"is no JSON: {error}") from None


def check_excuses(all_blocks):
    """Returns what is wrong with the blocks that are not run, and prints why they are not."""
    wrong = []
    for path, blocks in all_blocks.items():
        excused = [block for block in blocks if block.reason]
        for block in excused:
            print(f"{block.place} {': '.join(block.reason)}")
        if len(excused) != EXCUSED.get(path.name, 0):
            wrong.append(f"{path.name}: {len(excused)} blocks are not run, and EXCUSED in run.py has another number")
    return wrong


def read_pages(names):
    """The blocks of the pages, by page, or the end with a word about each page that is wrong."""
    wrong = []
    found = {}
    for path in sorted((ROOT / "docs").glob("*.md")):
        page = path.relative_to(ROOT)
        if names and path.stem not in names:
            continue
        try:
            found[path] = pages.parse(page)
            pages.check(found[path], ROOT)
        except pages.BadPage as error:
            wrong.append(str(error))
    wrong += check_excuses(found)
    unknown = set(names) - {path.stem for path in found}
    wrong += [f"there is no page {name}" for name in sorted(unknown)]
    if wrong:
        print("\n".join(wrong))
        print(f"test result: FAILED. 0 passed; {len(wrong)} failed")
        sys.exit(1)
    return found


def main(wrenn, python, *names):
    os.chdir(ROOT)
    all_blocks = read_pages(names)
    programs = Programs(ROOT, ROOT / "target/docs-test", pathlib.Path(python))
    try:
        programs.compile([block for blocks in all_blocks.values() for block in blocks if block.is_program])
    except Failure as failure:
        print(f"{failure}\ntest docs::compile ... FAILED\ntest result: FAILED. 0 passed; 1 failed")
        sys.exit(1)
    passed = 0
    failed = 0
    for path, blocks in all_blocks.items():
        if not any(block.language in (*pages.PROGRAMS, "json") for block in blocks):
            continue
        begin = time.monotonic()
        clean(wrenn)
        page = Page(path, blocks, programs, wrenn)
        failure = page.run()
        passed += page.passed
        verdict = "ok"
        if failure is not None:
            failed += 1
            verdict = "FAILED"
            # The key is one of this run alone, and yet none for logs.
            print(re.sub(r"wrn_[0-9a-f]{40}", "wrn_…", failure))
        print(f"test docs::{path.stem} ... {verdict} ({time.monotonic() - begin:.0f} s)", flush=True)
    clean(wrenn)
    print(f"test result: {'FAILED' if failed else 'ok'}. {passed} passed; {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
