#!/usr/bin/env bash
# Tests the server of the image `code-interpreter` on this machine, with the libraries of the image: each language, kinds
# of results, contexts, interrupts, deaths of kernels, limits.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/deps.sh interpreter
log=$PWD/target/test-logs/code-interpreter.log
mkdir -p "${log%/*}"
status=0
# Debian's Python, whose libraries these are, whatever else is on the path.
(cd tests/code-interpreter && /usr/bin/python3 -m pytest -q -p no:cacheprovider .) >"$log" 2>&1 || status=1
passed=$(sed -n 's/.*\b\([0-9]\+\) passed.*/\1/p' "$log" | tail -n 1)
failed=$(sed -n 's/.*\b\([0-9]\+\) failed.*/\1/p' "$log" | tail -n 1)
[[ $status == 0 ]] || { tail -n 200 "$log"; failed=${failed:-1}; }
echo "test result: $([[ $status == 0 ]] && echo ok || echo FAILED). ${passed:-0} passed; ${failed:-0} failed"
exit "$status"
