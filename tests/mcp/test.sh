#!/usr/bin/env bash
# Tests the tools of `wrenn mcp` and /mcp with the official clients: test.sh WRENN [PYTHON TEST…], against the server of
# WRENN_API_URL and WRENN_API_KEY. The last line of each part is one of `cargo test`.
set -euo pipefail
cd "$(dirname "$0")"
wrenn=$1
shift

venv=$PWD/../../target/venv/mcp
node=$PWD/../../target/node/mcp
requirements='mcp==2.3.0'
if [[ "$(cat "$venv/requirements" 2>/dev/null)" != "$requirements" ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$requirements"
    echo "$requirements" >"$venv/requirements"
fi
if ! cmp -s package.json "$node/package.json" || [[ ! -d $node/node_modules ]]; then
    rm -rf "$node"
    mkdir -p "$node"
    cp package.json "$node"
    (cd "$node" && npm install --ignore-scripts --no-package-lock --omit=optional --no-audit --no-fund --loglevel=error)
fi

status=0
PYTHONDONTWRITEBYTECODE=1 timeout 400 "$venv/bin/python" client.py "$wrenn" "$@" || status=1
if [[ $# == 0 ]]; then
    cp client.mjs "$node"
    report=$(mktemp)
    trap 'rm -f "$report"' EXIT
    test=(node --test-timeout 90000 --test-reporter tap client.mjs "$wrenn")
    (cd "$node" && timeout 200 "${test[@]}") | tee "$report" || status=1
    ok=$(sed -n 's/^# pass //p' "$report")
    bad=$(sed -n 's/^# fail //p' "$report")
    printf 'test result: %s. %s passed; %s failed\n' mcp-typescript "${ok:-0}" "${bad:-1}"
fi
exit "$status"
