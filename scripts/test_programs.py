"""Finds test programs in what `cargo build --message-format=json` prints (on standard input).

Arguments are suites, CRATE/TEST; prints a line `CRATE TEST PROGRAM` for each of them.
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


found = dict(filter(None, (test_program(json.loads(line)) for line in sys.stdin)))
for suite in sys.argv[1:]:
    if not found.get(suite):
        sys.exit(f"cargo built no program for the suite {suite}")
    print(*suite.split("/"), found[suite])
