#!/usr/bin/env bash
# Installs the Debian packages that a purpose needs: deps.sh [--check] run|build|test|lint…
#
# Does nothing, and needs neither root nor network, when they are there. With --check it only says what is missing.
# Where there is no apt it looks for the programs themselves and names those that the machine lacks.
set -euo pipefail

only_check=
if [[ ${1:-} == --check ]]; then
    only_check=1
    shift
fi

# package:program that proves it (for machines without apt). With a `?` before it, the program is enough: packages of
# others bring it, too, and Debian's conflicts with some of them.
declare -A purposes=(
    # What the host agent starts, and what prepares kernel and images.
    [run]='qemu-system-x86:qemu-system-x86_64 qemu-utils:qemu-img mmdebstrap:mmdebstrap
        e2fsprogs:mke2fs kmod:depmod ca-certificates:'
    # The last two for the crates that speak to the kernel's device mapper and loop driver: they read its headers.
    [build]='build-essential:cc pkg-config:pkg-config libclang-dev: libdevmapper-dev:'
    # npm for the libraries of the test console.
    [console]='?npm:npm'
    # PostgreSQL for the store's tests and `make dev`; Python for schemathesis; a static busybox for the VMM's guests.
    # A compiler for musl, for images of the tests.
    # Chromium and nginx for the port proxy: what browsers do with its answers, and what another proxy passes on.
    # faketime for a host whose clock is set; nft for rules of other programs, and to read ours back.
    # patch for the unified diffs of `wrenn diff`.
    # Prometheus and its promtool for the metrics and alerts; npm for a library that verifies webhooks.
    # skopeo and umoci for images to import, and what they unpack to; a registry, with certificates of openssl, to
    # pull them from. OpenSSH, rsync and git for SSH to sandboxes.
    [test]='busybox-static:busybox musl-tools:musl-gcc postgresql:psql python3:python3 python3-venv: util-linux:setpriv
        chromium:chromium nginx-light:nginx faketime:faketime nftables:nft
        patch:patch prometheus:prometheus ?npm:npm skopeo:skopeo umoci:umoci
        docker-registry:docker-registry openssl:openssl
        openssh-client:ssh rsync:rsync git:git'
    # The server of images/code-interpreter, to test it on this machine.
    [interpreter]='python3-pytest: python3-ipykernel: python3-jupyter-client: python3-tornado: python3-pandas:
        python3-matplotlib: python3-pil: node-acorn: esbuild:esbuild ?nodejs:node acl:setfacl procps:pgrep'
    # What gathers the pages of the guide.
    [docs]='python3:python3'
    [lint]='shellcheck:shellcheck'
)

say() { printf '%s\n' "packages: $*"; }

wanted=()
for purpose in "$@"; do
    [[ -n ${purposes[$purpose]:-} ]] || { say "no such purpose: $purpose; there are: ${!purposes[*]}" >&2; exit 2; }
    # shellcheck disable=SC2206 # words, on purpose
    wanted+=(${purposes[$purpose]})
done
[[ ${#wanted[@]} -gt 0 ]] || { say "usage: deps.sh [--check] PURPOSE…, of: ${!purposes[*]}" >&2; exit 2; }

has_program() {
    command -v "$1" >/dev/null || [[ -x /usr/sbin/$1 || -x /sbin/$1 ]]
}

# Not the return code of dpkg-query: removed packages that left configuration behind are known, too.
has_package() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

if ! command -v apt-get >/dev/null; then
    missing=()
    for item in "${wanted[@]}"; do
        program=${item#*:}
        [[ -z $program ]] || has_program "$program" || missing+=("$program")
    done
    [[ ${#missing[@]} -gt 0 ]] || exit 0
    say "there is no apt on this machine, and these programs are missing: ${missing[*]}" >&2
    say "install them with this system's own package manager, then run the same command again" >&2
    exit 1
fi

find_missing() {
    local item
    missing=()
    for item in "${wanted[@]}"; do
        [[ $item != \?* ]] || ! has_program "${item#*:}" || continue
        item=${item#\?}
        has_package "${item%%:*}" || missing+=("${item%%:*}")
    done
}
find_missing
[[ ${#missing[@]} -gt 0 ]] || exit 0
if [[ -n $only_check ]]; then
    say "not installed: ${missing[*]}"
    exit 1
fi

as_root=()
if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || { say "run as root: apt-get install ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
fi

# Packages of servers start them when they are installed, and at each boot: tests want the programs alone.
without_services() {
    local policy=/usr/sbin/policy-rc.d made=
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 0755 "$policy"
        made=1
    fi
    local code=0
    "$@" || code=$?
    [[ -z $made ]] || "${as_root[@]}" rm -f "$policy"
    return "$code"
}

apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@"; }

say "installing ${missing[*]}"
if ! apt update; then
    say "apt-get update failed; trying with the lists that are here" >&2
fi
# Once more for what was there and had to go: apt removes a package of another release that one of these conflicts with.
for _ in 1 2; do
    if ! without_services apt install -y --no-install-recommends "${missing[@]}"; then
        say 'apt could not install them; see its messages above, then run the same command again' >&2
        exit 1
    fi
    for service in prometheus docker-registry; do
        if command -v systemctl >/dev/null && [[ " ${missing[*]} " == *" $service "* ]]; then
            "${as_root[@]}" systemctl disable --quiet "$service.service" 2>/dev/null || true
        fi
    done
    find_missing
    [[ ${#missing[@]} -gt 0 ]] || exit 0
done
say "apt installed them, and these are missing all the same: ${missing[*]}; see its messages above" >&2
exit 1
