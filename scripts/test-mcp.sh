#!/usr/bin/env bash
# Tests `wrenn mcp` and /mcp with the official clients of the protocol against a real server with real VMs.
set -euo pipefail
cd "$(dirname "$0")/.."

data=${WRENN_TEST_DATA:-$PWD/target/testdata}
wrenn=${WRENN_TEST_BIN:-$PWD/target/debug}/wrenn
envd=$PWD/builds/envd
# shellcheck source=scripts/server.sh
source scripts/server.sh

export CP_METRICS_ADDR=off AGENT_METRICS_ADDR=off
start_server mcp
WRENN_API_URL=$(read_credential WRENN_API_URL)
WRENN_API_KEY=$(read_credential WRENN_API_KEY)
export WRENN_API_URL WRENN_API_KEY

status=0
tests/mcp/test.sh "$wrenn" "$@" || status=1
check_server || status=1
left=$("$wrenn" ls --all -q)
if [[ -n $left ]]; then
    printf '%s\n' 'the tests left these sandboxes:' "$left"
    echo 'test result: FAILED. 0 passed; 1 failed'
    status=1
fi
exit "$status"
