#!/usr/bin/env bash
# Fetches the libraries of the test console (web/console/package.json: xterm.js, for its terminal) into builds/console,
# from where the programs take them when they are compiled.
#
# Exactly the versions of package-lock.json, checked by their hashes; scripts of packages are not run. Does nothing when
# they are there. Without npm the programs are built all the same, and their console has no terminal.
set -euo pipefail
cd "$(dirname "$0")/.."

out=builds/console
work=target/console
stamp=$work/package-lock.json

cmp -s web/console/package-lock.json "$stamp" && [[ -s $out/xterm.mjs && -s $out/addon-fit.mjs ]] && exit 0
if ! command -v npm >/dev/null; then
    echo 'console: no npm here, so the test console will have no terminal; scripts/deps.sh console installs npm' >&2
    exit 0
fi

rm -rf "$work"
mkdir -p "$work" "$out"
# The lock last and by rename: it says that all of this is whole.
cp web/console/package-lock.json "$work/package-lock.json.new"
mkdir "$work/tree"
cp web/console/package.json web/console/package-lock.json "$work/tree"
(cd "$work/tree" && npm ci --ignore-scripts --no-audit --no-fund --silent)
xterm=$work/tree/node_modules/@xterm
for file in xterm/lib/xterm.mjs xterm/css/xterm.css addon-fit/lib/addon-fit.mjs; do
    scripts/place.sh "$xterm/$file" "$out/$(basename "$file")"
done
scripts/place.sh "$xterm/xterm/LICENSE" "$out/xterm-license.txt"
rm -rf "$work/tree"
mv "$work/package-lock.json.new" "$stamp"
