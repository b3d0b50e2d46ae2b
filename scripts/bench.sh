#!/usr/bin/env bash
# Measures the platform against the bare VMM: bench.sh [GROUP…], by default all groups of rows (`bench/src/main.rs`
# has the list). The table comes on the terminal, target/bench/report.json has the same.
set -euo pipefail
cd "$(dirname "$0")/.."

[[ $(id -u) == 0 ]] || { echo 'the benchmarks run real VMs and need root: sudo make bench' >&2; exit 1; }
scripts/deps.sh run build
scripts/build.sh
scripts/test-data.sh
mkdir -p target/bench
scripts/cargo.sh build --locked --release --bin bench
# The node alone can be there without a device mapper, where a tool has made it.
if { : </dev/mapper/control; } 2>/dev/null || [[ -n $* && " $* " != *' disks '* ]]; then
    exec target/release/bench "$@"
fi
# Rows that this machine cannot have are measured in one that can.
status=0
[[ $* == disks ]] || target/release/bench "$@" || status=$?
printf '\n%s\n' 'This kernel has no device mapper: those rows are measured in the lab, in an emulated machine.'
scripts/lab.sh bench || status=$?
exit "$status"
