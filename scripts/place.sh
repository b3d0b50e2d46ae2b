#!/usr/bin/env bash
# Puts a built program where it belongs: place.sh PROGRAM TARGET_FILE
#
# By rename, so that a copy that runs right now goes on with the old file. Nothing happens when they are equal.
set -euo pipefail

program=${1:?usage: place.sh PROGRAM TARGET_FILE}
target=${2:?usage: place.sh PROGRAM TARGET_FILE}

cmp -s "$program" "$target" && exit 0
mkdir -p "$(dirname "$target")"
new=$(mktemp "$target.XXXXXX")
trap 'rm -f "$new"' EXIT
cp "$program" "$new"
chmod 0755 "$new"
mv "$new" "$target"
printf '%s\n' "built $target ($(du -h --apparent-size "$target" | cut -f1))"
