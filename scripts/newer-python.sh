#!/usr/bin/env bash
# Runs a command in a Debian that has Python 3.13: newer-python.sh COMMAND [ARGUMENT…]
#
# The Debian is made once, in target/python313. It has this checkout at its own place, the network and the devices of
# this machine, and a directory for temporary files of its own; its mounts end with the command. Needs root.
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
debian=$checkout/target/python313
suite=trixie

mkdir -p "$checkout/target"
# Two at once would make the same thing.
exec 9>"$debian.lock"
flock 9
if [[ ! -d $debian ]]; then
    echo "making a Debian $suite with Python 3.13 in $debian (half a minute)" >&2
    work=$(mktemp -d "$debian.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # The last one finds names below localhost, as browsers do.
    mmdebstrap --quiet --mode=root --variant=minbase \
        --include=ca-certificates,python3,python3-venv,libnss-myhostname "$suite" - |
        tar -x -C "$work" --numeric-owner --exclude='./dev/*'
    mkdir -p "$work$checkout"
    chmod 0755 "$work"
    mv "$work" "$debian"
    trap - EXIT
fi
exec 9>&-

export checkout debian directory=$PWD
# shellcheck disable=SC2016 # expanded by the shell that has the mounts
exec unshare --mount --propagation private bash -c '
    set -e
    mount --rbind "$checkout" "$debian$checkout"
    mount --rbind /dev "$debian/dev"
    mount -t proc proc "$debian/proc"
    mount -t tmpfs tmpfs "$debian/tmp"
    # The certificates that this machine trusts, and its name servers.
    mount --bind /etc/ssl/certs "$debian/etc/ssl/certs"
    touch "$debian/etc/resolv.conf"
    mount --bind "$(readlink -f /etc/resolv.conf)" "$debian/etc/resolv.conf"
    exec chroot "$debian" env -C "$directory" -u checkout -u debian -u directory -u PYTHON "$@"' newer-python "$@"
