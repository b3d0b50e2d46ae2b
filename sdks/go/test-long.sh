#!/usr/bin/env bash
# Tests what `test.sh` leaves out: the linter, which is built for it, and all tests with the race detector, those of the
# server at WRENN_API_URL among them.
set -euo pipefail
cd "$(dirname "$0")"
: "${WRENN_API_URL:?set it to the address of a server for tests}" "${WRENN_API_KEY:?set it to a key of that server}"

go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 -tags conformance ./...
go test -race -tags conformance -count 1 -timeout 15m .
