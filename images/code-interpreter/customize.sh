#!/bin/sh
# Runs on the host with the unpacked image as $1, after its packages are installed.
set -eu
root=$1
recipe=$(dirname "$0")

# The user that sandboxes run as, with the password locked and sudo without one: inside its own VM it may do anything.
chroot "$root" useradd --create-home --uid 1000 --user-group --shell /bin/bash user
printf 'user ALL=(ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/user"
chmod 0440 "$root/etc/sudoers.d/user"

# The server, where the Python kernel finds it, too.
cp -R "$recipe/server/code_interpreter" "$root/usr/lib/python3/dist-packages/"
find "$root/usr/lib/python3/dist-packages/code_interpreter" -name __pycache__ -prune -exec rm -rf {} +
chroot "$root" python3 -m compileall -q /usr/lib/python3/dist-packages/code_interpreter
cat >"$root/usr/bin/code-interpreter" <<'END'
#!/bin/sh
# `code-interpreter serve` as root with its home, whoever started it.
[ "$1" != serve ] || export HOME=/root MPLBACKEND=module://matplotlib_inline.backend_inline
exec python3 -m code_interpreter "$@"
END
chmod 0755 "$root/usr/bin/code-interpreter"

# Debugging of cells over Jupyter's protocol is not offered, and its package takes a third of the time that a kernel
# takes to start. Tests of libraries are never run.
rm -rf "$root/usr/lib/python3/dist-packages/debugpy"
for package in matplotlib numpy pandas scipy sklearn sympy; do
    find "$root/usr/lib/python3/dist-packages/$package" -type d -name tests -prune -exec rm -rf {} +
done

# A sandbox is no system whose Python has to be protected: `pip install` works, as users of notebooks expect.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
printf '[global]\nroot-user-action = ignore\ndisable-pip-version-check = true\n' >"$root/etc/pip.conf"
# The cache of fonts, which the first figure would have to make.
chroot "$root" env HOME=/root MPLBACKEND=agg python3 -c 'import matplotlib.font_manager'

# What dpkg left out at the build shall be there in packages that users install.
rm -f "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
# The guest agent sets both for each sandbox.
rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"

rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log "$root"/var/log/apt
