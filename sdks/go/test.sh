#!/usr/bin/env bash
# Tests the package: against servers in this process, and by the scenarios of all SDKs against the server at
# WRENN_API_URL, which makes and deletes sandboxes.
set -euo pipefail
cd "$(dirname "$0")"
: "${WRENN_API_URL:?set it to the address of a server for tests}" "${WRENN_API_KEY:?set it to a key of that server}"

command -v go >/dev/null || { echo 'Go 1.24 or newer is needed: https://go.dev/dl/' >&2; exit 1; }

# Percent of the statements that are written by hand; models.go has none.
least=90
profile=$(mktemp)
trap 'rm -f "$profile"' EXIT

go run ./internal/generate -check
unformatted=$(gofmt -l .)
[[ -z $unformatted ]] || { echo "gofmt -w: $unformatted" >&2; exit 1; }
go vet ./...
go vet -tags conformance .
go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 -tags conformance ./...
go test -tags conformance -count 1 -timeout 10m -coverpkg . -coverprofile "$profile" .
covered=$(go tool cover -func "$profile" | sed -n 's/^total:.*[^0-9]\([0-9]*\)\.[0-9]*%$/\1/p')
echo "$covered % of the statements were run"
[[ $covered -ge $least ]] || { echo "less than $least %" >&2; exit 1; }
