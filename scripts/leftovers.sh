#!/usr/bin/env bash
# Lists everything on this host that a platform or a test could leave behind, one thing a line, sorted.
#
# Meant to be run before and after, and compared: what is only in the second list was left. The one nftables table of
# the host, what is noted about it, whose turn it is among network slots, and the one directory of control groups are
# not listed: they are the same for all sandboxes and stay.
set -uo pipefail
shopt -s nullglob

processes() {
    local pid comm line
    for pid in /proc/[0-9]*; do
        # Programs that a platform starts, and servers that tests start; other people's come and go.
        read -r comm <"$pid/comm" || continue
        line=$(tr '\0' ' ' <"$pid/cmdline") || continue
        case "$comm $line" in
            qemu-system* | firecracker* | vmm-pager* | wrenn* | envd* | postgres*wrenn-postgres-*)
                echo "process ${pid#/proc/}: $line"
                ;;
        esac
    done 2>/dev/null
}

named() {
    local kind=$1 path
    shift
    for path in "$@"; do
        echo "$kind $path"
    done
}

loops() {
    local file
    for file in /sys/block/loop*/loop/backing_file; do
        echo "loop device ${file%/loop/*} on $(<"$file")"
    done 2>/dev/null
}

{
    processes
    named 'network namespace' /run/netns/* /run/wrenn/netns/*
    named link /sys/class/net/*
    named 'device-mapper device' /dev/mapper/*
    named 'file' /tmp/wrenn-* target/testdata/run/*
    named 'image' target/testdata/images/imported/*
    find /run/wrenn -xdev -type f -not -path '/run/wrenn/host/*' -not -path /run/wrenn/slots/next \
        -not -path /run/wrenn/netns.lock \
        -printf 'file %p\n' 2>/dev/null
    loops
    # The directory of handles of network namespaces is mounted once, and stays.
    cut -d' ' -f2 /proc/self/mounts | grep -vx /run/wrenn/netns | sed 's/^/mount /'
    find /sys/fs/cgroup -maxdepth 5 -type d \( -path '*/wrenn/*' -o -path '*/wtest*' \) \
        -printf 'cgroup %p\n' 2>/dev/null
} | sort -u
