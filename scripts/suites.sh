#!/usr/bin/env bash
# To be sourced: run_suites KIND DIRECTORY PROGRAM SECONDS AT_ONCE [NAME…] runs DIRECTORY/NAME/PROGRAM for each name,
# by default each that has one, against a `wrenn up` with real VMs in a directory of its own, which goes at the end.
#
# Suites find the server by WRENN_API_URL and WRENN_API_KEY, or by WRENN_DIR. AT_ONCE of them run side by side, each for
# at most SECONDS, and the output of each is printed when it ends. A suite counts its tests in a line as `cargo test`
# has it; one without counts as one test. Returns 1 if anything failed.

# shellcheck source=scripts/server.sh
source scripts/server.sh

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
        (($2 == 0)) || echo "test $kind::$1 ... FAILED"
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

# Waits for a suite to end, and returns its status; also returns if the server ends.
wait_suite() {
    local ended suite suite_status=0
    wait -n -p ended || suite_status=$?
    for suite in "${!running[@]}"; do
        if [[ ${running[$suite]} == "$ended" ]]; then
            unset "running[$suite]"
            print_suite "$suite" "$suite_status"
        fi
    done
    return "$suite_status"
}

run_suites() {
    kind=$1
    limit=$4
    local directory=$2 program=$3 at_once=$5 suite status=0
    shift 5
    local suites=("$@")
    if [[ ${#suites[@]} == 0 ]]; then
        for suite in "$directory"/*/"$program"; do
            suites+=("$(basename "$(dirname "$suite")")")
        done
    fi

    export CP_METRICS_ADDR=off AGENT_METRICS_ADDR=off
    start_server "$kind"
    trap end_suites EXIT
    export_credentials

    for suite in "${suites[@]}"; do
        while ((${#running[@]} >= at_once)); do
            wait_suite || status=1
            check_server || return 1
        done
        # `timeout` makes a process group of its own, and ends all of it.
        timeout -k 10 "$limit" "$directory/$suite/$program" >"$dir/$suite.log" 2>&1 &
        running[$suite]=$!
    done
    while [[ ${#running[@]} != 0 ]]; do
        wait_suite || status=1
        check_server || return 1
    done
    check_no_sandboxes || status=1
    return "$status"
}
