#!/usr/bin/env bash
# Tests the SDKs against a real server with real VMs: test-sdks.sh [NAME…], by default every sdks/NAME that has a test.sh.
#
# The server is `wrenn up` in a directory of its own, which the SDKs find by WRENN_DIR; all of it goes at the end. Each
# suite ends with a line as `cargo test` has it, and so does this one's sum.
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

# What the environment says of another server is not for these tests.
unset WRENN_API_URL WRENN_API_KEY
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

status=0
for suite in "${suites[@]}"; do
    printf -- '--- %s\n' "$suite"
    "sdks/$suite/test.sh" || status=1
done
kill -0 "$server" 2>/dev/null || { tail -n 50 "$dir/up.log"; echo "wrenn up ended during the tests" >&2; status=1; }
left=$("$wrenn" ls --all -q)
if [[ -n $left ]]; then
    printf '%s\n' 'the suites left these sandboxes:' "$left"
    echo 'test result: FAILED. 0 passed; 1 failed'
    status=1
fi
exit "$status"
