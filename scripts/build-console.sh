#!/usr/bin/env bash
# Fetches the libraries of the test console (web/console/package.json: xterm.js, for its terminal) into builds/console,
# from where the programs take them when they are compiled.
#
# Exactly the versions of package-lock.json, checked by their hashes; scripts of packages are not run. Does nothing when
# they are there: `cargo clean` leaves them. Without npm the programs are built all the same, and their console has no
# terminal.
set -euo pipefail
cd "$(dirname "$0")/.."

out=builds/console
work=target/console
stamp=builds/console.lock
files=(xterm.mjs xterm.css addon-fit.mjs xterm-license.txt)

is_complete() {
    local file
    cmp -s web/console/package-lock.json "$stamp" || return
    for file in "${files[@]}"; do [[ -s $out/$file ]] || return; done
}
is_complete && exit 0
if ! command -v npm >/dev/null; then
    echo 'console: no npm here, so the test console will have no terminal; scripts/deps.sh console installs npm' >&2
    exit 0
fi

rm -rf "$work"
mkdir -p "$work" "$out"
mkdir "$work/tree"
cp web/console/package.json web/console/package-lock.json "$work/tree"
(cd "$work/tree" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
xterm=$work/tree/node_modules/@xterm
for file in xterm/lib/xterm.mjs xterm/css/xterm.css addon-fit/lib/addon-fit.mjs; do
    scripts/place.sh "$xterm/$file" "$out/$(basename "$file")"
done
scripts/place.sh "$xterm/xterm/LICENSE" "$out/xterm-license.txt"
# Last, and by rename: it says that all of this is whole.
scripts/place.sh "$work/tree/package-lock.json" "$stamp"
rm -rf "$work"
