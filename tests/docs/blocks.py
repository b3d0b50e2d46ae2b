"""Blocks of code in the pages of the guide, and what is to become of each.

A page is Markdown, in which a block of code says how it is tested:

    ```sh          runs in the shell of the page, as do blocks marked `sh,curl`
    ```python      runs as a program, with the SDK of this checkout; ```ts and ```go, too
    ```output      stands behind one of these, whose output has these lines in this order; … is any text
    ```json        is JSON
    ```text        is no code

The line before a block that cannot run here says why, or where else it is run:

    <!-- not run: needs a second machine -->
    <!-- run by: crates/control/tests/suite/restore.rs -->
"""

import dataclasses
import pathlib
import re

FENCE = re.compile(r"^( *)(```+)([^`]*)$")
REASON = re.compile(r"^ *<!-- (not run|run by): (.*) -->$")
PROGRAMS = ("sh", "python", "ts", "go")
OTHERS = ("output", "json", "text", "javascript")
# Blocks that say nothing of themselves, by page, until the page is written anew.
PLAIN = {"code-interpreter.md": 2, "e2b.md": 1, "events.md": 1, "images.md": 4, "sandboxes.md": 2}


@dataclasses.dataclass
class Block:
    page: pathlib.Path
    line: int
    language: str
    flags: tuple
    text: str
    # The kind of a comment before it, and what that says.
    reason: tuple

    @property
    def place(self):
        return f"{self.page}:{self.line}"

    @property
    def is_program(self):
        return self.language in PROGRAMS and not self.reason


class BadPage(Exception):
    """A page that says something about its blocks that cannot be."""


def parse(page):
    """All blocks of a page, in their order."""
    blocks = []
    fence = None
    reason = ()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        found = FENCE.match(line)
        if fence is None:
            if not found:
                comment = REASON.match(line)
                reason = comment.groups() if comment else reason if not line.strip() else ()
                continue
            language, *flags = found[3].strip().split(",")
            fence = found[2]
            indent = len(found[1])
            blocks.append(Block(page, number, language, tuple(flags), "", reason))
            reason = ()
        elif found and found[2] == fence and not found[3].strip():
            fence = None
        else:
            blocks[-1].text += line[indent:] + "\n"
    if fence is not None:
        raise BadPage(f"{blocks[-1].place}: the block has no end")
    return blocks


def check(blocks, root):
    """Raises an error for a block that says nothing, or something wrong, about how it is tested."""
    before = None
    plain = [block for block in blocks if not block.language]
    if len(plain) != PLAIN.get(blocks[0].page.name if blocks else "", 0):
        place = plain[-1].place if plain else blocks[0].page
        raise BadPage(f"{place}: a block has a language; PLAIN in blocks.py counts those that have none")
    for block in blocks:
        if block.language and block.language not in PROGRAMS + OTHERS:
            known = ", ".join(PROGRAMS + OTHERS)
            raise BadPage(f"{block.place}: its language is {block.language!r}, which is none of {known}")
        if block.language == "output" and not (before and before.language in PROGRAMS):
            raise BadPage(f"{block.place}: there is no program before this output")
        if block.language == "javascript" and not block.reason:
            raise BadPage(f"{block.place}: write it as ts, which runs, or say where it is run")
        if block.reason and block.reason[0] == "run by":
            file = root / block.reason[1]
            if not file.is_file() or block.page.name not in file.read_text():
                raise BadPage(f"{block.place}: {block.reason[1]} does not run {block.page.name}")
        before = block


def missing_line(expected, output):
    """The first line of an expected output that the output does not have behind the ones before, or None."""
    lines = iter(output.splitlines())
    for wanted in filter(str.strip, expected.splitlines()):
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in wanted.split("…")))
        if not any(pattern.fullmatch(line.strip()) for line in lines):
            return wanted
    return None
