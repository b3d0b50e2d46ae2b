#!/usr/bin/env bash
# Puts the distribution's newest cloud kernel for guests into a directory: fetch-kernel.sh DIR
#
#   DIR/vmlinux            the kernel as packaged (a bzImage; the host agent takes the ELF out of it)
#   DIR/modules/VERSION/   its modules, with modules.dep
#
# The package is downloaded with apt and unpacked, not installed. Does nothing when DIR has that version already.
# Everything is prepared beside its place and renamed at the end, so an interrupted run leaves nothing half-made.
set -euo pipefail

dir=${1:?usage: fetch-kernel.sh DIR}
meta=linux-image-cloud-amd64

say() { printf '%s\n' "kernel: $*"; }

if [[ -n "${WRENN_KERNEL_OFFLINE:-}" && -s "$dir/vmlinux" ]]; then
    say "kept $dir/vmlinux"
    exit 0
fi

newest() {
    apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

package=$(newest)
if [[ -z $package && ! -s "$dir/vmlinux" && $(id -u) == 0 ]]; then
    say "apt has no lists yet; fetching them"
    apt-get -q update || true
    package=$(newest)
fi
if [[ -z $package ]]; then
    if [[ -s "$dir/vmlinux" ]]; then
        say "apt knows no $meta; kept $dir/vmlinux"
        exit 0
    fi
    say "apt knows no $meta. Run 'apt-get update', or put a kernel (vmlinux or bzImage) at $dir/vmlinux yourself." >&2
    exit 1
fi

if [[ -s "$dir/vmlinux" && -f "$dir/package" && $(<"$dir/package") == "$package" ]]; then
    say "$package is in $dir already"
    exit 0
fi

mkdir -p "$dir"
work=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

say "downloading $package"
# apt drops its privileges for downloads, so the directory must be open to that user.
chmod 0755 "$work"
(cd "$work" && apt-get download -q "$package" -o APT::Sandbox::User=root)
say "unpacking"
dpkg-deb -x "$work"/*.deb "$work/root"
image=$(find "$work/root/boot" -name 'vmlinuz-*' | head -n 1)
version=${image##*/vmlinuz-}
# The package ships no modules.dep: an installation makes it.
modules=$(find "$work/root" -type d -path "*/lib/modules/$version" | head -n 1)
/sbin/depmod -b "${modules%/lib/modules/*}" "$version"

rm -rf "$dir/modules"
mkdir -p "$dir/modules"
mv "$modules" "$dir/modules/$version"
mv "$image" "$work/vmlinux"
chmod 0644 "$work/vmlinux"
sync -f "$work/vmlinux"
mv "$work/vmlinux" "$dir/vmlinux"
printf '%s\n' "$package" >"$dir/package"
say "$dir/vmlinux is Linux $version"
