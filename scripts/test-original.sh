#!/usr/bin/env bash
# Tests the original's published Python SDK (`wrenn` on PyPI) against a real server with real VMs: test-original.sh
# [ARGUMENT…], which go to pytest.
#
# It needs Python 3.13. The server is `wrenn up` in a directory of its own; all of it goes at the end. What the tests
# say of themselves ends with a line as `cargo test` has it.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/server.sh
source scripts/server.sh

wanted='wrenn==0.3.0 pytest==9.2.0 pytest-timeout==2.4.0'
venv=$PWD/target/venv/original
if [[ "$(cat "$venv/requirements" 2>/dev/null)" != "$wanted" ]]; then
    echo "installing $wanted into $venv"
    rm -rf "$venv"
    # shellcheck disable=SC2016,SC2086 # words, on purpose, for the shell inside
    scripts/newer-python.sh bash -c 'python3 -m venv "$0" && "$0/bin/pip" install --quiet "$@"' "$venv" $wanted
    echo "$wanted" >"$venv/requirements"
fi

export CP_METRICS_ADDR=off AGENT_METRICS_ADDR=off
start_server original
url=$(read_credential WRENN_API_URL)
WRENN_API_KEY=$(read_credential WRENN_API_KEY)
# Names below localhost are those of ports.
export WRENN_API_KEY WRENN_BASE_URL=http://localhost:${url##*:}/api
unset WRENN_PROXY_DOMAIN

status=0
(cd tests/original && PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    ../../scripts/newer-python.sh "$venv/bin/python" -m pytest "$@") || status=1
check_server || status=1
check_no_sandboxes || status=1
exit "$status"
