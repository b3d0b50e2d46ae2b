#!/usr/bin/env bash
# Runs the fuzz targets, each for a while, from its corpus on: fuzz.sh [TARGET…], by default all of them.
#
# WRENN_FUZZ_SECONDS is how long each runs (60). What libFuzzer finds interesting goes to target/fuzz/corpus and is kept
# from run to run; an input that fails is in fuzz/artifacts. To keep one for `make test`, copy it to fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/deps.sh build
# The stable compiler has what cargo-fuzz asks for, behind a lock.
export RUSTC_BOOTSTRAP=1
if ! scripts/cargo.sh fuzz --version >/dev/null 2>&1; then
    echo 'fuzz: installing cargo-fuzz'
    scripts/cargo.sh install --locked cargo-fuzz
fi

targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || mapfile -t targets < <(scripts/cargo.sh fuzz list)
# Without sanitizers: what is fuzzed is safe code, and panics and memory are seen without them.
options=(--sanitizer none --target-dir target/fuzz)
scripts/cargo.sh fuzz build "${options[@]}"
failed=()
for target in "${targets[@]}"; do
    printf '\n=== %s\n' "$target"
    found=target/fuzz/corpus/$target
    mkdir -p "$found"
    scripts/cargo.sh fuzz run "${options[@]}" "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="${WRENN_FUZZ_SECONDS:-60}" -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 ||
        failed+=("$target")
done
[[ ${#failed[@]} == 0 ]] || { echo "fuzz: failed: ${failed[*]}" >&2; exit 1; }
