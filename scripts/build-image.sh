#!/usr/bin/env bash
# Builds an image from a recipe: build-image.sh RECIPE DIR, where RECIPE is the name of one in images/, or the path of a
# directory with a list `packages` and a script `customize.sh`; a list `excludes` has patterns of paths that dpkg leaves
# out.
#
# Makes DIR/NAME.ext4 with mmdebstrap (from the host's own apt sources) and mke2fs; no loop device, no mount. Needs
# root. Does nothing when the image is there and newer than its recipe. The image appears under its name only when it
# is whole.
set -euo pipefail

recipe=${1:?usage: build-image.sh RECIPE DIR}
dir=${2:?usage: build-image.sh RECIPE DIR}
name=$(basename "$recipe")
[[ $recipe == */* ]] || recipe=$(cd "$(dirname "$0")/../images" && pwd)/$name
# Size of the file system; the file is sparse.
size=${WRENN_IMAGE_SIZE:-4G}
suite=${WRENN_IMAGE_SUITE:-bookworm}
image=$dir/$name.ext4

say() { printf '%s\n' "image $name: $*"; }

if [[ ! -f $recipe/packages ]]; then
    say "there is no recipe $recipe/packages; there are: $(cd "$(dirname "$0")/../images" && echo *)" >&2
    exit 1
fi
if [[ -s $image && -z $(find "$recipe" -type f -newer "$image" -not -name '*.pyc' -print -quit) ]]; then
    say "$image is there already"
    exit 0
fi
if [[ $(id -u) != 0 ]]; then
    say "needs root: sudo $0 $*" >&2
    exit 1
fi

mkdir -p "$dir"
work=$(mktemp -d "$dir/.build-$name.XXXXXX")
trap 'rm -rf "$work"' EXIT

packages=$(grep -v '^#' "$recipe/packages" | paste -sd,)
excludes=()
if [[ -f $recipe/excludes ]]; then
    while read -r pattern; do
        excludes+=(--dpkgopt="path-exclude=$pattern")
    done < <(grep -v '^#' "$recipe/excludes")
fi
say "installing Debian $suite with ${packages//,/, } (half a minute; minutes where there are many)"
# As a tar archive: unlike a directory it does not care whether $work is on a file system that allows devices.
# On a terminal it draws how far it is; elsewhere that would only fill logs.
quiet=(--quiet)
[[ ! -t 2 ]] || quiet=()
mmdebstrap "${quiet[@]}" --mode=root --variant=minbase --include="$packages" "${excludes[@]}" \
    --customize-hook="sh '$recipe/customize.sh' \"\$1\"" "$suite" "$work/root.tar"

say "making the file system"
mkdir "$work/root"
tar -C "$work/root" --numeric-owner --xattrs --exclude='./dev/*' -xf "$work/root.tar"
rm "$work/root.tar"
truncate -s "$size" "$work/image"
mke2fs -q -t ext4 -L "$name" -m 0 -E root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1 -d "$work/root" "$work/image"
sync -f "$work/image"
chmod 0644 "$work/image"
mv "$work/image" "$image"
say "$image takes $(du -h "$image" | cut -f1)"
