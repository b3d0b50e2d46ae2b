#!/usr/bin/env bash
# Runs what takes minutes or needs programs that `make test` does without: conformance of the port proxy with h2spec
# and the Autobahn suite, Docker in a guest, large data and other runtimes with the SDKs, clients of E2B, the SDK of the
# original, the frameworks' tests of our integrations, the code interpreter, and ten minutes in which each program is
# killed in turn. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/deps.sh run build test
tools=$PWD/target/tools
if [[ ! -x $tools/h2spec ]]; then
    command -v go >/dev/null || { echo 'test-long: h2spec is built with Go: apt-get install golang-go' >&2; exit 1; }
    GOBIN=$tools go install github.com/summerwind/h2spec/cmd/h2spec@latest
fi
scripts/autobahn.sh "$tools/autobahn"
scripts/build-envd.sh
scripts/test-data.sh
export H2SPEC=$tools/h2spec AUTOBAHN=$tools/autobahn
scripts/cargo.sh test --locked -p control -p hostd --test long -- --nocapture "$@"
scripts/test-sdks.sh --long
scripts/test-e2b.sh
scripts/test-original.sh
scripts/test-integrations.sh --long
scripts/test-code-interpreter.sh
stories=$(scripts/test-programs.sh e2e/stories)
cd tests/e2e
CUTS_MB=100 "${stories##* }" cuts --nocapture
KILLS_SEC=600 exec "${stories##* }" kills --nocapture
