#!/usr/bin/env bash
# Runs the tests of all crates but e2e, each program in the directory of its crate: test-crates.sh
#
# Two programs run side by side, since most tests wait for a database, a guest or a clock: one of a crate that changes
# the host (namespaces, mounts, VMs), and one of another. What a program prints comes when it has ended. One that does
# not come to the line with its counts counts as a test that failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

# tidy asks cargo.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'trap - TERM; kill -TERM 0; exit 130' INT TERM

scripts/test-programs.sh --all-but e2e >"$work/programs" || exit
changes_host() { [[ $1 =~ ^(disk-diff|guestd|hostd|linux|vmm)$ ]]; }

# The folder of a crate: CRATE
folder() {
    local path
    for path in "$root"/{crates,tests,.}/"$1"; do
        [[ ! -d $path ]] || { echo "$path"; return; }
    done
}

run_program() {
    local crate=$1 test=$2 program=$3 log=$work/$1-$2-$RANDOM begin=$SECONDS status=0
    (cd "$(folder "$crate")" && "$program") >"$log" 2>&1 || status=$?
    {
        flock 9
        printf '\n--- %s %s (%s s)\n' "$crate" "$test" "$((SECONDS - begin))"
        cat "$log"
        if ! grep -q '^test result: ' "$log"; then
            printf 'test %s::%s ... FAILED\n' "$crate" "$test"
            echo "test result: FAILED. 0 passed; 1 failed; it ended with status $status"
        fi
    } 9>"$work/lock"
    rm "$log"
    return "$status"
}

# Runs the programs of one lane: host or others
run_lane() {
    local crate test program lane status=0
    while read -r crate test program; do
        lane=others
        ! changes_host "$crate" || lane=host
        [[ $lane != "$1" ]] || run_program "$crate" "$test" "$program" || status=1
    done <"$work/programs"
    return "$status"
}

status=0
run_lane host &
host=$!
run_lane others || status=1
# The only examples in comments.
scripts/cargo.sh test --locked --quiet --doc -p client || status=1
wait "$host" || status=1
exit "$status"
