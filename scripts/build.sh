#!/usr/bin/env bash
# Builds the guest agent and programs into builds/: build.sh [PROGRAM…], by default wrenn, wrenn-cp and wrenn-agent.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=("$@")
[[ ${#programs[@]} -gt 0 ]] || programs=(wrenn wrenn-cp wrenn-agent)

scripts/build-envd.sh
scripts/build-console.sh || echo 'going on without it: the test console will have no terminal' >&2
printf '%s\n' "building ${programs[*]} (the first time takes some minutes)"
# All members, so that the benchmarks find the same features built.
scripts/cargo.sh build --locked --release "${programs[@]/#/--bin=}"
for program in "${programs[@]}"; do
    scripts/place.sh "target/release/$program" "builds/$program"
done
