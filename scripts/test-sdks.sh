#!/usr/bin/env bash
# Tests the SDKs against a real server with real VMs: test-sdks.sh [--long] [NAME…], by default every sdks/NAME with a
# test.sh, or with --long every one with a test-long.sh: large data, packages as users install them, other runtimes.
#
# The server is `wrenn up` in a directory of its own, which suites find by WRENN_API_URL and WRENN_API_KEY, or by
# WRENN_DIR; all of it goes at the end. Suites run side by side, and the output of each is printed when it ends. A suite
# counts its tests in a line as `cargo test` has it; one without counts as one test.
set -euo pipefail
cd "$(dirname "$0")/.."

# Seconds for a suite. Each test has a limit of its own: this one is for what hangs outside of tests.
limit=780
program=test.sh
if [[ ${1:-} == --long ]]; then
    limit=1700
    program="test-long.sh"
    shift
fi

# shellcheck source=scripts/server.sh
source scripts/server.sh

suites=("$@")
if [[ ${#suites[@]} == 0 ]]; then
    for test in sdks/*/"$program"; do
        suites+=("$(basename "$(dirname "$test")")")
    done
fi

# Process groups of suites that run, by name.
declare -A running=()

# Prints the output of a suite, its verdict last: print_suite NAME STATUS
print_suite() {
    local log=$dir/$1.log
    printf -- '--- %s (%s s)\n' "$1" "$SECONDS"
    cat "$log"
    if [[ $2 == 124 || $2 == 137 ]]; then
        echo "$1 takes longer than $limit seconds; it was ended"
    fi
    if ! grep -q '^test result: ' "$log"; then
        (($2 == 0)) || echo "test sdks::$1 ... FAILED"
        echo "test result: $1. $(($2 == 0)) passed; $(($2 != 0)) failed"
    fi
}

# What an interrupted run has said so far is not lost.
end_suites() {
    local suite
    for suite in "${!running[@]}"; do
        kill -TERM -- "-${running[$suite]}" 2>/dev/null || true
        print_suite "$suite" 143
    done
    running=()
    end_server
}

export CP_METRICS_ADDR=off AGENT_METRICS_ADDR=off
start_server sdks
trap end_suites EXIT

export_credentials

for suite in "${suites[@]}"; do
    # `timeout` makes a process group of its own, and ends all of it.
    timeout -k 10 "$limit" "sdks/$suite/$program" >"$dir/$suite.log" 2>&1 &
    running[$suite]=$!
done

status=0
while [[ ${#running[@]} != 0 ]]; do
    suite_status=0
    wait -n -p ended || suite_status=$?
    for suite in "${!running[@]}"; do
        if [[ ${running[$suite]} == "$ended" ]]; then
            unset "running[$suite]"
            print_suite "$suite" "$suite_status"
        fi
    done
    ((suite_status == 0)) || status=1
    check_server || { status=1; break; }
done
check_no_sandboxes || status=1
exit "$status"
