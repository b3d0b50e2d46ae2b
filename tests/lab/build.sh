#!/usr/bin/env bash
# Makes the disks of the lab in target/lab: root file system, kernel and image for guests inside, initramfs.
#
# Each is cached under the hash of what it is made from (this file among it) and never written afterwards. Needs root.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

lab=$PWD/target/lab
data=$PWD/target/testdata
suite=bookworm

say() { printf '%s\n' "lab: $*"; }

key() { sha256sum | cut -c1-16; }

# An image of a directory, under its name only when it is whole; older ones of its kind go.
make_image() {
    local tree=$1 image=$2
    mke2fs -q -F -t ext4 -m 0 -E root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1 -d "$tree" \
        "$image.unfinished" 12G >/dev/null
    rm -f "${image%-*}"-*.ext4
    mv "$image.unfinished" "$image"
}

build_root() {
    local image=$1 packages
    packages=$(grep -v '^#' tests/lab/packages | paste -sd,)
    say "installing its root file system (about half a minute)"
    mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" "$suite" "$work/root.tar"
    mkdir "$work/root"
    tar -C "$work/root" --numeric-owner --xattrs --exclude='./dev/*' -xf "$work/root.tar"
    mkdir -p "$work/root/payload" "$work/root/lib/modules"
    cp -r "$data/kernels/modules/$version" "$work/root/lib/modules/"
    make_image "$work/root" "$image"
}

# What guests inside boot from.
build_data() {
    say "copying kernel and image for its guests"
    mkdir "$work/data"
    cp -r --sparse=always "$data/kernels" "$data/images" "$work/data/"
    make_image "$work/data" "$1"
}

build_initramfs() {
    local tree=$work/initramfs order=() base module
    mkdir -p "$tree"/{bin,dev,root,modules} "$work/base/lib"
    ln -s "$data/kernels/modules" "$work/base/lib/modules"
    cp "$(command -v busybox)" "$tree/bin/busybox"
    install -m 0755 tests/lab/initramfs-init "$tree/init"
    while read -r _ module; do
        base=$(basename "$module")
        [[ " ${order[*]} " == *" $base "* ]] || order+=("$base")
        cp "$module" "$tree/modules/$base"
    done < <(for base in virtio_pci virtio_blk virtio_rng ext4; do
        modprobe -d "$work/base" -S "$version" --show-depends "$base" | grep '^insmod'
    done)
    printf '%s\n' "${order[@]}" >"$tree/modules/order"
    (cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null) >"$work/archive"
    mv "$work/archive" "$1"
}

[[ -s $data/kernels/vmlinux && -s $data/images/minimal.ext4 ]] || scripts/test-data.sh >&2
version=$(basename "$data"/kernels/modules/*)
mkdir -p "$lab"
# Two at once would make the same things.
exec 9>"$lab/lock"
flock 9
work=$(mktemp -d "$lab/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT

root=$lab/root-$(cat tests/lab/packages tests/lab/build.sh "$data/kernels/package" | key).ext4
guests=$lab/data-$({ cat "$data/kernels/package"; stat -c '%Y %s' "$data"/images/*.ext4; } | key).ext4
[[ -s $root ]] || build_root "$root" >&2
[[ -s $guests ]] || build_data "$guests" >&2
build_initramfs "$lab/initramfs"
ln -sfn "$(basename "$root")" "$lab/root.ext4"
ln -sfn "$(basename "$guests")" "$lab/data.ext4"
