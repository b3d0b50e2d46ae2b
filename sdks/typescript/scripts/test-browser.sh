#!/usr/bin/env bash
# Tries the built package in Chromium, on a page of the server at WRENN_API_URL. After a build.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${WRENN_API_URL:?set it to the address of a server for tests}" "${WRENN_API_KEY:?set it to a key of that server}"
command -v chromium >/dev/null || { echo 'Chromium is needed: apt-get install chromium' >&2; exit 1; }

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp -r dist/esm "$dir/dist"
cp test/browser.mjs "$dir"
cd "$dir"
npm install --ignore-scripts --no-audit --no-fund --loglevel=error playwright-core@1.65.1 >/dev/null
timeout -k 10 300 node browser.mjs
