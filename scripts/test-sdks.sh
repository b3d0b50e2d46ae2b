#!/usr/bin/env bash
# Tests the SDKs against a real server with real VMs: test-sdks.sh [--long] [NAME…], by default every sdks/NAME with a
# test.sh, or with --long every one with a test-long.sh: large data, packages as users install them, other runtimes.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/suites.sh
source scripts/suites.sh

# Seconds for a suite. Each test has a limit of its own: this one is for what hangs outside of tests.
if [[ ${1:-} == --long ]]; then
    shift
    run_suites sdks sdks test-long.sh 1700 9 "$@"
else
    run_suites sdks sdks test.sh 780 9 "$@"
fi
