#!/usr/bin/env bash
# Tests what `test.sh` leaves out, against the same server: the packed package in modules of each kind, in the oldest
# Node and a newer one, in Deno and in Bun, all of them from npm, and in Chromium.
set -euo pipefail
cd "$(dirname "$0")"
: "${WRENN_API_URL:?set it to the address of a server for tests}" "${WRENN_API_KEY:?set it to a key of that server}"

scripts/install.sh
node scripts/build.mjs
scripts/test-package.sh
scripts/test-runtimes.sh
scripts/test-browser.sh
