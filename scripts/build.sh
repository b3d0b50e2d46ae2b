#!/usr/bin/env bash
# Builds the four programs into builds/.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/build-envd.sh
printf '%s\n' 'building wrenn, wrenn-cp and wrenn-agent (the first time takes some minutes)'
scripts/cargo.sh build --locked --release -p control -p hostd -p cli --bins
for program in wrenn wrenn-cp wrenn-agent; do
    scripts/place.sh "target/release/$program" "builds/$program"
done
