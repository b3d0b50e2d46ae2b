#!/usr/bin/env bash
# Licences, sources and bans of all dependencies (deny.toml). Needs no network, but for installing cargo-deny once.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
tool=$PWD/target/tools/cargo-deny-$version
if [[ ! -x $tool/bin/cargo-deny ]]; then
    echo "installing cargo-deny $version into target/tools (some minutes, once)"
    scripts/cargo.sh install --quiet --locked --root "$tool" --target-dir target/tools/build "cargo-deny@$version"
    rm -rf target/tools/build
fi
PATH=$tool/bin:$PATH scripts/cargo.sh deny --offline --log-level error check bans licenses sources
