"""Finds test programs in what `cargo build --message-format=json` prints (on standard input).

Arguments are suites, CRATE/TEST, or `--all-but CRATE`; prints a line `CRATE TEST PROGRAM` for each program.
"""

import json
import os
import sys


def test_program(message):
    """Suite and path, or None if the message is about anything else."""
    if message.get("reason") != "compiler-artifact" or not message["profile"]["test"]:
        return None
    crate = os.path.basename(os.path.dirname(message["manifest_path"]))
    return f"{crate}/{message['target']['name']}", message.get("executable")


found = [program for program in map(test_program, map(json.loads, sys.stdin)) if program and program[1]]
if sys.argv[1] == "--all-but":
    chosen = [(suite, program) for suite, program in found if suite.split("/")[0] != sys.argv[2]]
else:
    by_suite = dict(found)
    for suite in sys.argv[1:]:
        if suite not in by_suite:
            sys.exit(f"cargo built no program for the suite {suite}")
    chosen = [(suite, by_suite[suite]) for suite in sys.argv[1:]]
for suite, program in chosen:
    print(*suite.split("/"), program)
