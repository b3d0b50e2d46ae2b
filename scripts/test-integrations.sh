#!/usr/bin/env bash
# Tests the packages for other people's frameworks against a real server with real VMs:
# test-integrations.sh [--long] [NAME…], by default every sdks/integrations/NAME.
#
# Each package does a real job of its framework; with --long it also passes the tests that the framework has for
# packages of its kind. The frameworks are installed at the first run, into target/venv and node_modules.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/suites.sh
source scripts/suites.sh

# Two at once: a machine of two cores is busy with that.
if [[ ${1:-} == --long ]]; then
    shift
    run_suites integrations sdks/integrations test-long.sh 1700 2 "$@"
else
    run_suites integrations sdks/integrations test.sh 900 2 "$@"
fi
