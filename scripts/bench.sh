#!/usr/bin/env bash
# Measures the platform against the bare VMM: table on the terminal, target/bench/report.json beside it.
set -euo pipefail
cd "$(dirname "$0")/.."

[[ $(id -u) == 0 ]] || { echo 'the benchmarks run real VMs and need root: sudo make bench' >&2; exit 1; }
scripts/deps.sh run build
scripts/build.sh
scripts/test-data.sh
mkdir -p target/bench
exec scripts/cargo.sh run --locked --release --bin bench -- "$@"
