#!/usr/bin/env bash
# Builds the guide, and runs every command and program in it against a real server with real VMs:
# test-docs.sh [PAGE…], by default all pages of docs/.
#
# Python, TypeScript and Go blocks use the SDKs of this checkout. tests/docs/blocks.py says how blocks are marked.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/server.sh
source scripts/server.sh

command -v go >/dev/null || { echo 'Go 1.24 or newer is needed: https://go.dev/dl/' >&2; exit 1; }

# The guide as the server serves it, in Chromium. Pictures of it stay in target/docs-pictures.
try_in_browser() {
    local modules=$PWD/target/node/docs
    if ! cmp -s tests/docs/package.json "$modules/package.json" || [[ ! -d $modules/node_modules ]]; then
        rm -rf "$modules"
        mkdir -p "$modules"
        cp tests/docs/package.json "$modules"
        (cd "$modules" && npm install --ignore-scripts --no-package-lock --no-audit --no-fund --loglevel=error)
    fi
    cp tests/docs/browser.mjs "$modules"
    mkdir -p target/docs-pictures
    timeout -k 10 280 node "$modules/browser.mjs" "$WRENN_API_URL" "$CP_DOCS_PATH" "$PWD/target/docs-pictures"
}

export PYTHONDONTWRITEBYTECODE=1
status=0
python3 tests/docs/test_guide.py || status=1
if [[ $# == 0 ]]; then
    if scripts/build-docs.sh; then
        echo 'test result: ok. 1 passed; 0 failed'
    else
        echo 'test docs::build ... FAILED'
        echo 'test result: FAILED. 0 passed; 1 failed'
        status=1
    fi
fi

venv=$PWD/target/venv/docs
requirements='httpx==0.28.1 websockets==17.4'
if [[ "$(cat "$venv/requirements" 2>/dev/null)" != "$requirements" ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086 # words, on purpose
    "$venv/bin/pip" install --quiet --disable-pip-version-check $requirements
    echo "$requirements" >"$venv/requirements"
fi
sdks/typescript/scripts/install.sh
(cd sdks/typescript && node scripts/build.mjs)

export CP_METRICS_ADDR=off AGENT_METRICS_ADDR=off CP_DOCS_PATH=$PWD/builds/docs
start_server docs
export_credentials
[[ $# != 0 ]] || try_in_browser || status=1
python3 tests/docs/run.py "$wrenn" "$venv/bin/python" "$@" || status=1
check_server || status=1
check_no_sandboxes || status=1
exit "$status"
