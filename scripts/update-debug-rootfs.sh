#!/usr/bin/env bash
# Bakes the guest agent into a root filesystem image: update-debug-rootfs.sh IMAGE
#
#   /usr/local/bin/envd         builds/envd
#   /usr/local/bin/wrenn-init   starts it as the first process
#
# Sandboxes do not need this: the host agent boots every ext4 image with a guest agent of its own. It is for guests
# that are booted by other means, with init=/usr/local/bin/wrenn-init on the kernel's command line; and /sbin/init leads
# there in an image that has no other. The image is written beside its place and renamed, so there is always a whole
# one; no mount, no loop device, and root only if the file asks for it.
set -euo pipefail

image=${1:?usage: update-debug-rootfs.sh IMAGE}
root=$(cd "$(dirname "$0")/.." && pwd)
envd=${WRENN_ENVD:-$root/builds/envd}
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$image: $*"; }
fail() {
    say "$*" >&2
    exit 1
}

command -v debugfs >/dev/null || fail 'needs debugfs: apt-get install e2fsprogs'
[[ -f $image ]] || fail 'there is no such file'
[[ -w $image && -w $(dirname "$image") ]] || fail 'you may not write it; try with sudo'
[[ -s $envd ]] || fail "there is no $envd yet: make build-envd"
image=$(readlink -f "$image")

# ext4 by its superblock: the magic number, and the feature "extents".
magic=$(od -An -tx2 -j1080 -N2 "$image" | tr -d ' ')
[[ $magic == ef53 ]] && LC_ALL=C dumpe2fs -h "$image" 2>/dev/null | grep -q '^Filesystem features:.* extent' ||
    fail 'is not an ext4 file system'

# In use: somebody has it open, or it is behind a loop device or an overlay of a sandbox.
in_use() {
    local link
    for link in /proc/[0-9]*/fd/*; do
        [[ $link -ef $image ]] && return 0
    done
    grep -qxF "$image" /sys/block/loop*/loop/backing_file 2>/dev/null
}
! in_use || fail 'is in use; stop the sandboxes that run from it, then try again'

work=$(mktemp -d "$(dirname "$image")/.debug-rootfs.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

cat >"$work/wrenn-init" <<'INIT'
#!/bin/sh
# The first process of a guest that boots this image by itself: makes the machine, starts the guest agent, reaps
# orphans, and switches off when the agent ends.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mount -n -o remount,rw /
mount -n -t proc proc /proc
mount -n -t sysfs sysfs /sys
mount -n -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -n -t devpts devpts /dev/pts
mount -n -t tmpfs tmpfs /dev/shm
mount -n -t tmpfs tmpfs /run
mount -n -t cgroup2 cgroup2 /sys/fs/cgroup
# The addresses that the host agent gives every guest; ip= on the kernel's command line does it, too.
if command -v ip >/dev/null; then
    ip link set lo up
    ip link set eth0 up && ip addr add 169.254.0.21/30 dev eth0 && ip route add default via 169.254.0.22
fi
/usr/local/bin/envd &
agent=$!
while kill -0 "$agent" 2>/dev/null; do
    wait "$agent"
done
sync
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
INIT

cp --sparse=always --reflink=auto --preserve=mode,ownership,xattr "$image" "$work/image"
# A journal that was not replayed would undo what is written past it.
status=0
e2fsck -fp "$work/image" >"$work/fsck" 2>&1 || status=$?
((status < 4)) || fail "the file system is damaged: $(tail -n 1 "$work/fsck"); repair it with e2fsck"

has() { [[ -n $(debugfs -R "stat $1" "$work/image" 2>/dev/null) ]]; }
is_link() { debugfs -R "stat $1" "$work/image" 2>/dev/null | grep -q 'Type: symlink'; }

commands() {
    local dir file
    for dir in /usr /usr/local /usr/local/bin; do
        has "$dir" || echo "mkdir $dir"
    done
    for file in envd wrenn-init; do
        ! has "/usr/local/bin/$file" || echo "rm /usr/local/bin/$file"
    done
    echo "write $envd /usr/local/bin/envd"
    echo "write $work/wrenn-init /usr/local/bin/wrenn-init"
    for file in envd wrenn-init; do
        echo "set_inode_field /usr/local/bin/$file mode 0100755"
        echo "set_inode_field /usr/local/bin/$file uid 0"
        echo "set_inode_field /usr/local/bin/$file gid 0"
    done
    # In most images /sbin is a link, behind which debugfs makes no files.
    local sbin=/sbin
    ! is_link /sbin || sbin=/usr/sbin
    if has "$sbin" && ! has "$sbin/init"; then
        echo "symlink $sbin/init /usr/local/bin/wrenn-init"
    fi
}
commands >"$work/commands"
# debugfs ends with 0 whatever happened, so what it did is checked instead.
debugfs -w -f "$work/commands" "$work/image" >"$work/log" 2>&1
debugfs -R "dump /usr/local/bin/envd $work/written" "$work/image" 2>/dev/null
cmp -s "$envd" "$work/written" || fail "the agent could not be written: $(grep -v '^debugfs' "$work/log" | tail -n 1)"
e2fsck -fn "$work/image" >"$work/fsck" 2>&1 ||
    fail "would be damaged, so it was left as it is: $(tail -n 3 "$work/fsck")"

sync "$work/image"
! in_use || fail 'has come into use meanwhile and was left as it is; try again'
mv "$work/image" "$image"
say "has the guest agent now ($(stat -c %s "$envd") bytes)"
