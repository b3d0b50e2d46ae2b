#!/usr/bin/env bash
# Measures the platform against the bare VMM: table on the terminal, target/bench/report.json beside it.
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
[[ $* == disks ]] || target/release/bench "$@"
printf '\n%s\n' 'This kernel has no device mapper: those rows are measured in the lab, in an emulated machine.'
exec scripts/lab.sh bench
