#!/usr/bin/env bash
# From a clone to Python in a microVM, in one go: quickstart.sh
#
# Installs packages, builds `wrenn` and the guest agent, prepares kernel and image in WRENN_DIR (default
# /var/lib/wrenn), starts a server there, runs one program in a sandbox and stops the server again. What was made is
# kept, so a second run takes seconds. A server that runs there already is used, and left running.
#
# Compiling takes longest and needs few packages; so it goes on in the background while the other packages, kernel and
# image are fetched. Its messages are shown afterwards, and kept in target/quickstart.log.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${WRENN_DIR:-/var/lib/wrenn}
program='import platform, os
print("Hello from Python", platform.python_version(), "on Linux", platform.release())
print("user", os.popen("id -un").read().strip(), "with", os.cpu_count(), "CPU, in a virtual machine of its own")'

step() { printf '\n==> %s\n' "$*"; }
hint() { printf '\nquickstart: %s\n' "$*" >&2; }

server=
scratch=
# Process group that compiles, or that fetches crates.
compiling=
# What to do next, if the step at hand fails.
next=
cleanup() {
    local status=$?
    trap - EXIT INT TERM
    [[ -z $compiling ]] || kill -TERM -- "-$compiling" 2>/dev/null || true
    if [[ -n $server ]]; then
        # Only what this run has made; sandboxes of earlier days go on running.
        local made=
        [[ ! -f $scratch/before ]] || made=$(comm -13 "$scratch/before" <(sandboxes)) || made=
        # shellcheck disable=SC2086 # several ids
        [[ -z $made ]] || builds/wrenn rm $made >/dev/null || true
        kill -INT "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    if ((status != 0 && status != 130)) && [[ -n $scratch && -s $scratch/up.log ]]; then
        printf '\n--- the server said:\n' >&2
        tail -n 30 "$scratch/up.log" >&2
    fi
    [[ -z $scratch ]] || rm -rf "$scratch"
    if ((status == 130)); then
        hint 'interrupted; everything of this run is stopped. The next run goes on where this one was.'
    elif ((status != 0)); then
        hint "failed. $next"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# None is fine.
sandboxes() { { builds/wrenn ls --all --json 2>/dev/null | grep -o 'sb-[a-z0-9]\{20\}' || true; } | sort -u; }

busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Starts a command in a process group of its own, with its output in the log.
in_background() {
    mkdir -p target
    set -m
    "$@" >target/quickstart.log 2>&1 &
    compiling=$!
    set +m
}

# Shows what the command in the background says, and waits for its end.
wait_for_background() {
    tail -n +1 -f --pid="$compiling" target/quickstart.log
    local pid=$compiling
    compiling=
    wait "$pid"
}

install_and_build() {
    local retry="When that is dealt with, run 'make quickstart' again."
    next="The message above names what is missing. $retry"
    step 'Debian packages to compile with'
    in_background scripts/cargo.sh fetch --locked --quiet
    scripts/deps.sh build
    echo 'all there'
    wait_for_background
    in_background scripts/build.sh wrenn
    step 'Debian packages to run with (meanwhile the programs are compiled)'
    scripts/deps.sh run
    echo 'all there'
    step "Guest kernel and base image in $dir"
    next="Look at the message above: mostly it is the network, or the disk. $retry"
    AGENT_KERNEL_PATH=${AGENT_KERNEL_PATH:-$dir/kernels/vmlinux} AGENT_IMAGES_PATH=${AGENT_IMAGES_PATH:-$dir/images} \
        WRENN_DIR=$dir scripts/prepare.sh
    step 'Programs (the first time it takes some minutes)'
    next="The message above is the compiler's, and in target/quickstart.log. $retry"
    wait_for_background
}

# As root only from here on, and without a toolchain of root's own.
if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || { next='Run it as root: VMs, disks and networks need it.'; exit 1; }
    install_and_build
    trap - EXIT
    exec sudo env WRENN_DIR="$dir" WRENN_BUILT=1 "$PWD/scripts/quickstart.sh"
fi
[[ -n ${WRENN_BUILT:-} ]] || install_and_build

export WRENN_DIR=$dir
scratch=$(mktemp -d)
step 'Server'
next="See the server's words above; 'builds/wrenn doctor' tells what this machine lacks and what to type."
if builds/wrenn ls >/dev/null 2>&1; then
    echo "one runs already with $dir; using it"
else
    listen=127.0.0.1:8000
    if busy 8000; then
        echo 'port 8000 is taken; using a free one'
        listen=127.0.0.1:0
    fi
    # In a process group of its own: a Ctrl-C must not end it before it has removed the sandbox.
    set -m
    builds/wrenn up --json --listen "$listen" --dir "$dir" >"$scratch/ready" 2>"$scratch/up.log" &
    server=$!
    set +m
    for _ in {1..240}; do
        [[ ! -s $scratch/ready ]] || break
        kill -0 "$server" 2>/dev/null || exit 1
        sleep 0.25
    done
    [[ -s $scratch/ready ]] || { echo 'it does not become ready' >&2; exit 1; }
    sandboxes >"$scratch/before"
    echo "ready at $(sed -n 's/.*"url": *"\([^"]*\)".*/\1/p' "$scratch/ready")"
fi

step 'Python in a new sandbox'
next="Try it by hand: 'builds/wrenn up' in one terminal, 'builds/wrenn run -- python3 -V' in another."
builds/wrenn run -- python3 -c "$program" | tee "$scratch/answer"
grep -q '^Hello from Python' "$scratch/answer"

step 'Done'
cat <<WORDS
The sandbox is removed${server:+, and the server stops now}. Next:

  export PATH=$PWD/builds:\$PATH
  wrenn up                                  start the server; Ctrl-C ends it
  wrenn run -- uname -a                     in another terminal
  wrenn create                              a sandbox that stays; then: wrenn exec, wrenn cp, wrenn rm
  wrenn doctor                              what this machine can do
WORDS
