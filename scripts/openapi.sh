#!/usr/bin/env bash
# Writes the API document as the routes say it to api/openapi.json, and what SDKs generate of it. A test fails when they
# differ.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/cargo.sh build --locked --bin wrenn-cp
new=$(mktemp api/.openapi.XXXXXX)
trap 'rm -f "$new"' EXIT
target/debug/wrenn-cp openapi >"$new"
chmod 0644 "$new"
cmp -s "$new" api/openapi.json || { mv "$new" api/openapi.json && echo 'api/openapi.json has changed'; }
python3 sdks/python/generate.py
# Where their tools are; their tests tell of files that are not current.
if command -v npm >/dev/null; then
    cd sdks/typescript
    [[ -d node_modules ]] || npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
    node scripts/generate.mjs
    cd ../..
fi
if command -v go >/dev/null; then
    cd sdks/go
    go run ./internal/generate
fi
