#!/usr/bin/env bash
# cargo, also where rustup put it without telling the PATH, and a clear word where it is not.
set -euo pipefail
command -v cargo >/dev/null || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
if ! command -v cargo >/dev/null; then
    printf '%s\n' 'there is no Rust toolchain for this user' \
        'install it from https://rustup.rs, then run the same command again' >&2
    exit 1
fi
exec cargo "$@"
