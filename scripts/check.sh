#!/usr/bin/env bash
# What to run before every commit: format, lints, dependencies, shell scripts, tidy and unit tests.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n=== %s\n' "$*"; }

scripts/deps.sh run build test lint
step 'format'
scripts/cargo.sh fmt --all --check || { echo 'cargo fmt --all puts it right' >&2; exit 1; }
step 'shell scripts'
shellcheck --severity=warning scripts/*.sh scripts/tests/*.sh images/*/*.sh .ci/run
step 'lints'
scripts/cargo.sh clippy --locked --workspace --all-targets -- -D warnings
# Apart: a test that is switched off is not among all targets, also where it is named beside them.
scripts/cargo.sh clippy --locked --workspace --test devices -- -D warnings
step 'dependencies'
scripts/deny.sh
step 'tidy'
scripts/cargo.sh test --locked --workspace --quiet --test tidy
step 'unit tests'
scripts/cargo.sh test --locked --workspace --quiet --lib --bins
printf '\nall checks passed\n'
