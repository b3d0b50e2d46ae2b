#!/usr/bin/env bash
# Tests the package: against servers in this process, and by the scenarios of all SDKs against the server at
# WRENN_API_URL, which makes and deletes sandboxes.
set -euo pipefail
cd "$(dirname "$0")"
: "${WRENN_API_URL:?set it to the address of a server for tests}" "${WRENN_API_KEY:?set it to a key of that server}"

command -v go >/dev/null || { echo 'Go 1.24 or newer is needed: https://go.dev/dl/' >&2; exit 1; }

# Percent of the statements that are written by hand; models.go has none.
least=90
# Time for all tests: Go ends the process when it has passed, and names the test that runs.
limit=5m
profile=$(mktemp)
trap 'rm -f "$profile" "$profile.log"' EXIT

go run ./internal/generate -check
unformatted=$(gofmt -l .)
[[ -z $unformatted ]] || { echo "gofmt -w: $unformatted" >&2; exit 1; }
go vet -tags conformance ./...

# A test that hangs fails by its name, and the others run without it.
status=0
hung='^$'
for _ in {1..5}; do
    tests=0
    go test -tags conformance -count 1 -timeout "$limit" -skip "$hung" -coverpkg . -coverprofile "$profile" . 2>&1 |
        tee "$profile.log" || tests=1
    ((tests == 0)) || status=1
    # Lines as "	TestName (4m0s)" below "running tests:".
    name=$(sed -n '/^\trunning tests:/,/^$/s/^\t\t\(Test[^ \/]*\).*/\1/p' "$profile.log" | head -n 1)
    [[ -n $name ]] || break
    echo "test go::$name ... FAILED"
    hung+="|^$name\$"
done
((status == 0)) || exit 1
covered=$(go tool cover -func "$profile" | sed -n 's/^total:.*[^0-9]\([0-9]*\)\.[0-9]*%$/\1/p')
echo "$covered % of the statements were run"
[[ $covered -ge $least ]] || { echo "less than $least %" >&2; exit 1; }
