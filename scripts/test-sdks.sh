#!/usr/bin/env bash
# Tests the SDKs against a real server with real VMs: test-sdks.sh [NAME…], by default every sdks/NAME with a test.sh.
#
# The server is `wrenn up` in a directory of its own, which suites find by WRENN_API_URL and WRENN_API_KEY, or by
# WRENN_DIR; all of it goes at the end. A suite counts its tests in a line as `cargo test` has it; one without counts as
# one test.
set -euo pipefail
cd "$(dirname "$0")/.."

data=${WRENN_TEST_DATA:-$PWD/target/testdata}
programs=${WRENN_TEST_BIN:-$PWD/target/debug}
wrenn=$programs/wrenn
envd=$PWD/builds/envd
[[ -z ${WRENN_TEST_BIN:-} ]] || envd=$programs/envd
# shellcheck source=scripts/server.sh
source scripts/server.sh

suites=("$@")
if [[ ${#suites[@]} == 0 ]]; then
    for test in sdks/*/test.sh; do
        suites+=("$(basename "$(dirname "$test")")")
    done
fi

export CP_METRICS_ADDR=off AGENT_METRICS_ADDR=off
start_server sdks

# Also what the environment says of another server: that is not for these tests.
WRENN_API_URL=$(read_credential WRENN_API_URL)
WRENN_API_KEY=$(read_credential WRENN_API_KEY)
export WRENN_API_URL WRENN_API_KEY

status=0
for suite in "${suites[@]}"; do
    printf -- '--- %s\n' "$suite"
    suite_status=0
    "sdks/$suite/test.sh" 2>&1 | tee "$dir/suite.log" || suite_status=1
    ((suite_status == 0)) || status=1
    grep -q '^test result: ' "$dir/suite.log" || {
        ((suite_status == 0)) || echo "test sdks::$suite ... FAILED"
        echo "test result: $suite. $((1 - suite_status)) passed; $suite_status failed"
    }
done
check_server || status=1
left=$("$wrenn" ls --all -q)
if [[ -n $left ]]; then
    printf '%s\n' 'the suites left these sandboxes:' "$left"
    echo 'test result: FAILED. 0 passed; 1 failed'
    status=1
fi
exit "$status"
