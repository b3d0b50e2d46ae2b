#!/bin/sh
# Runs on the host with the unpacked image as $1, after its packages are installed.
set -eu
root=$1

chroot "$root" useradd --create-home --uid 1000 --user-group --groups docker --shell /bin/bash user
rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
