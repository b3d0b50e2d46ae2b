#!/usr/bin/env bash
# Installs the Autobahn WebSocket test suite into a Debian root of its own: autobahn.sh DIR
#
# The suite needs Python 2.7, which Debian had last in bullseye. Needs root. Does nothing when DIR is there; it appears
# only when it is whole.
set -euo pipefail

dir=${1:?usage: autobahn.sh DIR}
[[ ! -x $dir/usr/local/bin/wstest ]] || exit 0

# The last versions that run on Python 2.7.
pip=20.3.4
setuptools=44.1.1
autobahn=25.10.1

mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$(dirname "$dir")/.autobahn.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

echo 'autobahn: installing Debian bullseye with Python 2.7 (two minutes)'
mmdebstrap --quiet --mode=root --variant=minbase \
    --include=ca-certificates,gcc,libc6-dev,libffi-dev,libssl-dev,python2.7-dev bullseye "$root"

# As this machine reaches the registry.
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
# That of Debian no longer runs on Python 2.7.
python3 -m venv "$work/venv"
"$work/venv/bin/pip" download --quiet --no-deps --dest "$root/tmp" "pip==$pip"
wheel=/tmp/pip-$pip-py2.py3-none-any.whl
chroot "$root" python2.7 "$wheel/pip" install --quiet "$wheel" "setuptools==$setuptools" wheel
chroot "$root" python2.7 -m pip install --quiet "autobahntestsuite==$autobahn"
mv "$root" "$dir"
