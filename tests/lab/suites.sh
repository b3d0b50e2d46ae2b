#!/bin/bash
# Runs the suites that need a real host, in the lab or on such a host, from the root of a checkout. Each is a test
# program; `target/real-host/list` has a line `CRATE TEST PROGRAM` for each one (scripts/lab.sh writes it).
set -uo pipefail
export RUST_BACKTRACE=1
results=${RESULTS:-target/test-logs}
# Guests that boot side by side only wait for each other.
threads=${WRENN_TEST_THREADS:-2}
status=0
mkdir -p "$results"
[[ -s target/real-host/list ]] || { echo "no suites are listed"; exit 1; }

while read -r crate name program; do
    log=$results/$crate-$name.log
    begin=$SECONDS
    printf '\n--- %s: %s\n' "$crate" "$name"
    # As cargo does it: in the directory of the crate.
    # shellcheck disable=SC2086 # nothing, or a word
    (cd "crates/$crate" && "$program" --test-threads="$threads" ${WRENN_TEST_ONLY:-}) 2>&1 </dev/null | tee "$log"
    code=${PIPESTATUS[0]}
    printf -- '--- %s: %s took %s s\n' "$crate" "$name" "$((SECONDS - begin))"
    if [[ $code != 0 ]]; then
        status=1
        # A crash ends without the line that counts.
        grep -q '^test result' "$log" || echo 'test result: FAILED. 0 passed; 1 failed'
        printf '%s\n' "log: $log" >"$log.failed"
    fi
done <target/real-host/list
exit "$status"
