#!/usr/bin/env bash
# Builds the guide, a book of the pages in docs/, into builds/docs: build-docs.sh
#
# mdBook is compiled once, by cargo, into target/tools; scripts/build_docs.py says what goes into the book and what is
# done to it afterwards. `wrenn up` and wrenn-cp serve builds/docs at /docs/guide.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.5.4
mdbook=target/tools/bin/mdbook

scripts/deps.sh build docs
if [[ "$("$mdbook" --version 2>/dev/null)" != "mdbook v$version" ]]; then
    echo 'docs: compiling mdBook (the first time takes some minutes)'
    scripts/cargo.sh install --quiet --locked --debug --root target/tools --version "$version" \
        --no-default-features --features search mdbook
fi
work=target/docs
rm -rf "$work"
mkdir -p "$work" builds
python3 scripts/build_docs.py gather "$work/src"
cp docs/book.toml "$work"
"$mdbook" build --dest-dir "$PWD/$work/book" "$work" >"$work/mdbook.log" 2>&1 || { cat "$work/mdbook.log" >&2; exit 1; }
python3 scripts/build_docs.py finish "$work/book"
# A server that reads the guide right now sees the old one or the new one.
rm -rf builds/docs.old
[[ ! -e builds/docs ]] || mv builds/docs builds/docs.old
mv "$work/book" builds/docs
rm -rf builds/docs.old
echo "built builds/docs: $(find builds/docs -name '*.html' | wc -l) pages"
