#!/usr/bin/env bash
# Tests the code interpreter: test-code-interpreter.sh [unit|sdks]… (default both)
#
# unit: its server on this machine, with the libraries of the image. sdks: E2B's published SDKs against a real server,
# whose template is the image `code-interpreter` (built when it is missing, which takes minutes), saved running.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=("$@")
[[ ${#parts[@]} -gt 0 ]] || parts=(unit sdks)

run_unit() {
    scripts/deps.sh interpreter
    # Debian's Python, whose libraries these are, whatever else is on the path.
    local log=target/test-logs/code-interpreter.log status=0
    mkdir -p target/test-logs
    (cd tests/code-interpreter && /usr/bin/python3 -m pytest -q -p no:cacheprovider .) >"$log" 2>&1 || status=1
    local passed failed
    passed=$(sed -n 's/.*\b\([0-9]\+\) passed.*/\1/p' "$log" | tail -n 1)
    failed=$(sed -n 's/.*\b\([0-9]\+\) failed.*/\1/p' "$log" | tail -n 1)
    [[ $status == 0 ]] || { tail -n 200 "$log"; failed=${failed:-1}; }
    echo "test result: $([[ $status == 0 ]] && echo ok || echo FAILED). ${passed:-0} passed; ${failed:-0} failed"
    return "$status"
}

run_sdks() {
    scripts/build-image.sh code-interpreter "${WRENN_TEST_DATA:-target/testdata}/images"
    scripts/test-e2b.sh --code-interpreter
}

status=0
for part in "${parts[@]}"; do
    case $part in
        unit) run_unit || status=1 ;;
        sdks) run_sdks || status=1 ;;
        *) echo "no such part: $part" >&2; exit 2 ;;
    esac
done
exit "$status"
