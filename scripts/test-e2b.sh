#!/usr/bin/env bash
# Tests published clients of E2B against a real server with real VMs: test-e2b.sh [--all] [--update] [NAME…]
# or those of the code interpreter, with its template saved running: test-e2b.sh --code-interpreter [NAME…]
#
# The server is `wrenn up` in a directory of its own; all of it goes at the end. tests/e2b/run.py has the arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/server.sh
source scripts/server.sh

export CP_METRICS_ADDR=off AGENT_METRICS_ADDR=off
# Variables that would lead the clients elsewhere.
unset E2B_DEBUG E2B_DOMAIN E2B_ACCESS_TOKEN E2B_VALIDATE_API_KEY
start_server e2b
export_credentials
# The same key as their clients spell it.
export E2B_API_URL=$WRENN_API_URL E2B_API_KEY=e2b_${WRENN_API_KEY#wrn_}
export E2B_SANDBOX_URL=$E2B_API_URL E2B_VOLUME_API_URL=$E2B_API_URL

if [[ ${1:-} == --code-interpreter ]]; then
    shift
    [[ $# -gt 0 ]] || set -- cells-2.6.0 cells-2.8.1 cells-2.10.0 cells-2.11.5 cells-js-2.8.0
    WRENN=$wrenn scripts/save-code-interpreter.sh
    # One at a time: kernels of several would share the processors with what is measured.
    set -- --jobs 1 "$@"
fi

status=0
python3 tests/e2b/run.py "$@" || status=1
check_server || status=1
# Those that ended at their timeouts are stopped, and none of E2B's calls deletes them.
"$wrenn" ls --all -q --filter status=stopped | xargs --no-run-if-empty "$wrenn" rm >/dev/null
check_no_sandboxes || status=1
exit "$status"
