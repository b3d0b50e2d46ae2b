#!/usr/bin/env bash
# To be sourced: start_server NAME starts `wrenn up` with real VMs in a directory of its own, and returns when it is
# ready. All of it goes with the shell.
#
# Sets dir (credentials, up.log) and server (its process). The caller has set wrenn (the program), envd (the guest
# agent), data (kernels and images), and the limits of the server in the environment.

server=
dir=

end_server() {
    trap - EXIT
    if [[ -n $server ]]; then
        "${wrenn:?}" rm --all >/dev/null 2>&1 || true
        kill -INT "$server" 2>/dev/null || true
        wait "$server" || true
        # If it had ended before, its VMs run on; their command lines name this directory, which nobody else has.
        pkill -KILL -f "pidfile $dir/" || true
    fi
    rm -rf "$dir"
}

start_server() {
    mkdir -p "$PWD/target/testdata/run"
    dir=$(mktemp -d "$PWD/target/testdata/run/$1-XXXXXX")
    trap end_server EXIT
    trap 'exit 130' INT TERM
    export WRENN_DIR=$dir AGENT_ENVD_PATH=${envd:?}
    export AGENT_KERNEL_PATH=${data:?}/kernels/vmlinux AGENT_IMAGES_PATH=$data/images
    set -m
    "${wrenn:?}" up --json --listen 127.0.0.1:0 >"$dir/ready" 2>"$dir/up.log" &
    server=$!
    set +m
    for _ in {1..240}; do
        [[ ! -s $dir/ready ]] || break
        kill -0 "$server" 2>/dev/null || { cat "$dir/up.log"; echo "wrenn up ended" >&2; exit 1; }
        sleep 0.5
    done
    [[ -s $dir/ready ]] || { cat "$dir/up.log"; echo "wrenn up does not become ready" >&2; exit 1; }
}

# Prints a value of its credentials.
read_credential() { sed -n "s/^$1=//p" "$dir/credentials"; }

# Fails if it has ended.
check_server() {
    kill -0 "$server" 2>/dev/null || { tail -n 50 "$dir/up.log"; echo "wrenn up ended during the tests" >&2; return 1; }
}
