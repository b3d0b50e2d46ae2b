#!/usr/bin/env bash
# Builds the package as users get it and tests it against the server that WRENN_API_URL names: test.sh [--long]
set -euo pipefail
cd "$(dirname "$0")"
: "${WRENN_API_URL:?set it to the address of a server for tests}" "${WRENN_API_KEY:?set it to a key of that server}"
[[ ${1:-} != --long ]] || export LONG=1

(cd ../../typescript && scripts/install.sh && { [[ -d dist ]] || node scripts/build.mjs; })
cmp -s package-lock.json node_modules/installed-lock.json || {
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
    cp package-lock.json node_modules/installed-lock.json
}
npx prettier --check --log-level warn .
node scripts/build.mjs
rm -rf target
npx tsc -p tsconfig.test.json
report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
node --enable-source-maps --test --test-reporter spec target/provider.js | tee "$report" || status=1
passed=$(sed -n 's/^ℹ pass //p' "$report")
failed=$(sed -n 's/^ℹ fail //p' "$report")
((status == 0 || ${failed:-0} > 0)) || failed=1
verdict=$( ((status == 0)) && echo ok || echo FAILED)
printf 'test result: %s. %s passed; %s failed\n' "$verdict" "${passed:-0}" "${failed:-1}"
exit "$status"
