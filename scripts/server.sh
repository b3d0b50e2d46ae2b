#!/usr/bin/env bash
# To be sourced: start_server NAME starts `wrenn up` with real VMs in a directory of its own, and returns when it is
# ready. All of it goes with the shell.
#
# Sets wrenn (the program), envd (the guest agent) and data (kernels and images): those that were built here, or those
# of WRENN_TEST_BIN and WRENN_TEST_DATA. start_server sets dir (credentials, up.log) and server (its process). The
# caller has set the limits of the server in the environment, and is in the root of the checkout.

data=${WRENN_TEST_DATA:-$PWD/target/testdata}
wrenn=${WRENN_TEST_BIN:-$PWD/target/debug}/wrenn
envd=${WRENN_TEST_BIN:-$PWD/builds}/envd
server=
dir=

end_server() {
    trap - EXIT
    if [[ -n $server ]]; then
        "$wrenn" rm --all >/dev/null 2>&1 || true
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
    export WRENN_DIR=$dir AGENT_ENVD_PATH=$envd
    # A directory of its own, since images that are imported would be seen by the next server.
    mkdir "$dir/images"
    cp --link "$data/images/"*.ext4 "$dir/images" 2>/dev/null || cp --sparse=always "$data/images/"*.ext4 "$dir/images"
    export AGENT_KERNEL_PATH=$data/kernels/vmlinux AGENT_IMAGES_PATH=$dir/images
    set -m
    "$wrenn" up --json --listen 127.0.0.1:0 >"$dir/ready" 2>"$dir/up.log" &
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

# Says where it is, whatever the environment said of another server.
export_credentials() {
    WRENN_API_URL=$(read_credential WRENN_API_URL)
    WRENN_API_KEY=$(read_credential WRENN_API_KEY)
    export WRENN_API_URL WRENN_API_KEY
}

# Fails if it has sandboxes, and counts that as a test that failed.
check_no_sandboxes() {
    local left
    left=$("$wrenn" ls --all -q)
    [[ -n $left ]] || return 0
    printf '%s\n' 'the tests left these sandboxes:' "$left"
    echo 'test result: FAILED. 0 passed; 1 failed'
    return 1
}

# Fails if it has ended.
check_server() {
    kill -0 "$server" 2>/dev/null || { tail -n 50 "$dir/up.log"; echo "wrenn up ended during the tests" >&2; return 1; }
}
