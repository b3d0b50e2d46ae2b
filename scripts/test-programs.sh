#!/usr/bin/env bash
# Builds all programs and tests, and prints a line `CRATE TEST PROGRAM` for each test program asked for:
# test-programs.sh CRATE/TEST… | --all-but CRATE
#
# One choice of targets for all suites: another one means other features of the dependencies, and a second build. Only
# what `cargo test` leaves out, since most machines cannot run it, has to be built apart, and only when asked for.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p target/test-logs
messages=target/test-logs/cargo.json
build() { scripts/cargo.sh build --locked --workspace "$@" --message-format=json-render-diagnostics; }
build --all-targets >"$messages"
if [[ " $* " == */devices\ * ]]; then
    build --test devices >>"$messages"
fi
python3 scripts/test_programs.py "$@" <"$messages"
rm "$messages"
