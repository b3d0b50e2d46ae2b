#!/usr/bin/env bash
# Installs the programs and systemd units, or removes them: install.sh install|uninstall PREFIX
#
# DESTDIR is put before every path, for packages. Kernel, images, database and sandboxes are no part of this; they are
# in WRENN_DIR and stay there.
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:?usage: install.sh install|uninstall PREFIX}
prefix=${2:?usage: install.sh install|uninstall PREFIX}
root=${DESTDIR:-}
programs=(wrenn wrenn-cp wrenn-agent envd)
units=(wrenn-cp wrenn-agent)
share=$prefix/share/wrenn
settings=$root/etc/wrenn/wrenn.env
token_file=$root/etc/wrenn/agent-token

may_write() {
    local dir=$1
    while [[ ! -e $dir ]]; do dir=$(dirname "$dir"); done
    [[ ! -w $dir ]] || return 0
    echo "you may not write to $dir: run it with sudo, or choose another PREFIX" >&2
    exit 1
}

# Both daemons of one machine share the token, which systemd hands to them (LoadCredential=); only root may read it.
# An installation from before has it in the settings.
write_token() {
    [[ ! -e $token_file ]] || { echo "kept $token_file"; return; }
    local token=
    if [[ -e $settings ]]; then token=$(sed -n 's/^AGENT_TOKEN=//p' "$settings" | tail -n 1 | tr -d "\"'"); fi
    [[ -n $token ]] || token=$(od -An -vtx1 -N32 /dev/urandom | tr -d ' \n')
    install -d -m 0755 "$(dirname "$token_file")"
    install -m 0600 /dev/null "$token_file"
    echo "$token" >"$token_file"
    if [[ -e $settings ]]; then sed -i '/^AGENT_TOKEN=/d' "$settings"; fi
    echo "made $token_file"
}

write_settings() {
    [[ ! -e $settings ]] || { echo "kept $settings"; return; }
    install -d -m 0755 "$(dirname "$settings")"
    install -m 0600 /dev/null "$settings"
    {
        echo '# Settings of wrenn-cp and wrenn-agent; docs/configuration.md explains each.'
        echo '# For PostgreSQL set DATABASE_URL.'
        echo 'AGENT_LISTEN_ADDR=127.0.0.1:50051'
        echo 'CP_LISTEN_ADDR=127.0.0.1:8000'
    } >"$settings"
    echo "made $settings"
}

case $action in
    install)
        missing=()
        for program in "${programs[@]}"; do [[ -x builds/$program ]] || missing+=("$program"); done
        [[ ${#missing[@]} == 0 ]] || scripts/build.sh
        may_write "$root$prefix/bin"
        install -d "$root$prefix/bin"
        for program in "${programs[@]}"; do
            scripts/place.sh "builds/$program" "$root$prefix/bin/$program"
        done
        # The guide, where `make docs` has built it.
        if [[ -e builds/docs/index.html ]]; then
            may_write "$root$share"
            rm -rf "$root$share/docs"
            install -d -m 0755 "$root$share/docs"
            cp -r builds/docs/. "$root$share/docs"
            chmod -R u=rwX,go=rX "$root$share/docs"
        fi
        if [[ -n $root || -d /run/systemd/system ]]; then
            may_write "$root/etc/systemd/system"
            write_token
            write_settings
            install -d "$root/etc/systemd/system"
            for unit in "${units[@]}"; do
                sed "s|@PREFIX@|$prefix|g" "deploy/systemd/$unit.service" >"$root/etc/systemd/system/$unit.service"
            done
            [[ -n $root ]] || systemctl daemon-reload
            echo 'units: systemctl enable --now wrenn-agent wrenn-cp'
        fi
        echo "installed ${programs[*]} in $prefix/bin"
        ;;
    uninstall)
        may_write "$root$prefix/bin"
        for unit in "${units[@]}"; do
            [[ -e $root/etc/systemd/system/$unit.service ]] || continue
            [[ -n $root ]] || systemctl disable --now "$unit"
            rm -f "$root/etc/systemd/system/$unit.service"
        done
        for program in "${programs[@]}"; do rm -f "$root$prefix/bin/$program"; done
        rm -rf "$root$share/docs"
        rmdir "$root$share" 2>/dev/null || true
        echo "removed ${programs[*]} from $prefix/bin; settings in $(dirname "$settings") and all data stay"
        ;;
    *) echo "no such action: $action" >&2; exit 2 ;;
esac
