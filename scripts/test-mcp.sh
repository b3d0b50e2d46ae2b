#!/usr/bin/env bash
# Tests `wrenn mcp` and /mcp with the official clients of the protocol against a real server with real VMs.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/server.sh
source scripts/server.sh

export CP_METRICS_ADDR=off AGENT_METRICS_ADDR=off
start_server mcp
export_credentials

status=0
tests/mcp/test.sh "$wrenn" "$@" || status=1
check_server || status=1
check_no_sandboxes || status=1
exit "$status"
