#!/usr/bin/env bash
# Tries the packed package in the oldest Node, in a newer one, in Deno and in Bun (all from npm), against the server at
# WRENN_API_URL. After a build.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${WRENN_API_URL:?set it to the address of a server for tests}" "${WRENN_API_KEY:?set it to a key of that server}"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm pack --ignore-scripts --silent --pack-destination "$dir" >/dev/null
cp test/runtimes.mjs "$dir"
cd "$dir"
npm install --ignore-scripts --no-audit --no-fund --loglevel=error ./wrenn-sandbox-*.tgz >/dev/null

try() {
    echo "$1"
    npm exec --yes --package="$1" -- "${@:2}" runtimes.mjs
}
try node@18.18 node
try node@24 node
try deno@2 deno run --allow-all
try bun@1 bun run
