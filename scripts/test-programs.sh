#!/usr/bin/env bash
# Builds all programs and tests, and prints a line `CRATE TEST PROGRAM` for each test program asked for:
# test-programs.sh CRATE/TEST…
#
# One choice of targets for all suites: another one means other features of the dependencies, and a second build. So what
# `cargo test` leaves out, since most machines cannot run it, is built beside everything else, and only when asked for.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p target/test-logs
messages=target/test-logs/cargo.json
build() { scripts/cargo.sh build --locked --workspace "$@" --message-format=json-render-diagnostics; }
targets=(--all-targets)
[[ " $* " != */devices\ * ]] || targets+=(--test devices)
build "${targets[@]}" >"$messages"
python3 scripts/test_programs.py "$@" <"$messages"
rm "$messages"
