#!/usr/bin/env bash
# Builds the four programs into builds/.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/build-envd.sh
printf '%s\n' 'building wrenn, wrenn-cp and wrenn-agent (the first time takes some minutes)'
# All members, so that the benchmarks find the same features built.
scripts/cargo.sh build --locked --release --bin wrenn --bin wrenn-cp --bin wrenn-agent
for program in wrenn wrenn-cp wrenn-agent; do
    scripts/place.sh "target/release/$program" "builds/$program"
done
