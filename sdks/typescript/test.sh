#!/usr/bin/env bash
# Builds the package as users get it and tests it: against servers in this process, and by the scenarios of all SDKs
# against the server at WRENN_API_URL, which makes and deletes sandboxes.
set -euo pipefail
cd "$(dirname "$0")"
: "${WRENN_API_URL:?set it to the address of a server for tests}" "${WRENN_API_KEY:?set it to a key of that server}"

# Files that hang although their tests have limits are ended after so many milliseconds.
file_limit=600000

scripts/install.sh
node scripts/generate.mjs --check
npx prettier --check --log-level warn .
node scripts/build.mjs
rm -rf target
npx tsc -p tsconfig.test.json
npx c8 --check-coverage --lines 90 --functions 90 --branches 85 --include 'dist/esm/**' \
    --exclude 'dist/esm/generated/**' --reporter text-summary \
    node --enable-source-maps --test --test-timeout "$file_limit" --test-reporter dot target/*.test.js
node --enable-source-maps --test --test-timeout "$file_limit" --test-reporter spec \
    target/conformance.js target/quickstart.js
