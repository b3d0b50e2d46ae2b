#!/usr/bin/env bash
# Builds the guest agent as a static program: build-envd.sh [TARGET_FILE] (default builds/envd)
#
# It runs in whatever image a sandbox has, so it may need nothing of the image. There is no musl target on many
# machines; the glibc one with crt-static is, and only an explicit --target keeps those flags away from build scripts.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-builds/envd}
target=x86_64-unknown-linux-gnu
limit_mb=10

RUSTFLAGS='-C target-feature=+crt-static' scripts/cargo.sh build --locked --profile guest --target "$target" \
    -p guestd --bin envd
built=target/$target/guest/envd

if LC_ALL=C readelf -lW "$built" | grep -q INTERP; then
    printf '%s\n' "envd: $built needs a dynamic linker, so it would not start in every image" >&2
    exit 1
fi
size=$(stat -c %s "$built")
if ((size >= limit_mb * 1024 * 1024)); then
    printf '%s\n' "envd: $built has $size bytes; the limit is $limit_mb MiB: every sandbox has it in memory" >&2
    exit 1
fi
scripts/place.sh "$built" "$out"
