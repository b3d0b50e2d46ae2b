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

suites=("$@")
if [[ ${#suites[@]} == 0 ]]; then
    for test in sdks/*/test.sh; do
        suites+=("$(basename "$(dirname "$test")")")
    done
fi

mkdir -p "$PWD/target/testdata/run"
dir=$(mktemp -d "$PWD/target/testdata/run/sdks-XXXXXX")
server=
cleanup() {
    trap - EXIT
    if [[ -n $server ]]; then
        "$wrenn" rm --all >/dev/null 2>&1 || true
        kill -INT "$server" 2>/dev/null || true
        wait "$server" || true
        # If it had ended before, its VMs run on; their command lines name this directory, which nobody else has.
        pkill -KILL -f "pidfile $dir/" || true
    fi
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

export WRENN_DIR=$dir AGENT_KERNEL_PATH=$data/kernels/vmlinux AGENT_IMAGES_PATH=$data/images AGENT_ENVD_PATH=$envd
export CP_METRICS_ADDR=off AGENT_METRICS_ADDR=off

set -m
"$wrenn" up --json --listen 127.0.0.1:0 >"$dir/ready" 2>"$dir/up.log" &
server=$!
set +m
for _ in {1..240}; do
    [[ ! -s $dir/ready ]] || break
    kill -0 "$server" 2>/dev/null || { cat "$dir/up.log"; echo "wrenn up ended" >&2; exit 1; }
    sleep 0.5
done
[[ -s $dir/ready ]] || { cat "$dir/up.log"; echo "wrenn up does not become ready" >&2; exit 1; }

# Also what the environment says of another server: that is not for these tests.
WRENN_API_URL=$(sed -n 's/^WRENN_API_URL=//p' "$dir/credentials")
WRENN_API_KEY=$(sed -n 's/^WRENN_API_KEY=//p' "$dir/credentials")
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
kill -0 "$server" 2>/dev/null || { tail -n 50 "$dir/up.log"; echo "wrenn up ended during the tests" >&2; status=1; }
left=$("$wrenn" ls --all -q)
if [[ -n $left ]]; then
    printf '%s\n' 'the suites left these sandboxes:' "$left"
    echo 'test result: FAILED. 0 passed; 1 failed'
    status=1
fi
exit "$status"
