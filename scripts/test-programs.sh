#!/usr/bin/env bash
# Builds all programs and tests, and prints a line `CRATE TEST PROGRAM` for each test program asked for:
# test-programs.sh CRATE/TEST…
#
# One choice of targets for all suites: another one means other features of the dependencies, and a second build. The
# tests named apart are those that `cargo test` leaves out, since most machines cannot run them.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p target/test-logs
messages=target/test-logs/cargo.json
scripts/cargo.sh build --locked --workspace --all-targets --test devices \
    --message-format=json-render-diagnostics >"$messages"
python3 scripts/test_programs.py "$@" <"$messages"
rm "$messages"
