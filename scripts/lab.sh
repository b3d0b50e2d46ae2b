#!/usr/bin/env bash
# The lab: a VM that plays a host with KVM and device-mapper, for tests on machines that lack one of them.
#
#   lab.sh build              makes its disks, once for each recipe in tests/lab
#   lab.sh shell              a prompt in it
#   lab.sh run [SUITE…]       runs suites in it; results and logs come to target/test-logs/lab
#   lab.sh host [SUITE…]      runs suites on this host
#   lab.sh bench              measures the rows that need device-mapper or Firecracker; the table is printed
#
# A suite is CRATE/TEST as in the list below; without names it is those of disks. The others boot guests: KVM in an
# emulated lab is too slow and unreliable for them to be part of every run. The disks are in target/lab and never
# written: a run works on overlays in a directory of its own, which goes when it ends. WRENN_TEST_ONLY is a part of the
# names of the tests to run, WRENN_TEST_THREADS how many at a time (2).
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

by_default=(linux/devices hostd/devices)
suites=("${by_default[@]}" hostd/host vmm/conformance)
lab=$PWD/target/lab
data=$PWD/target/testdata
logs=$PWD/target/test-logs/lab
# Of one whole run; the VM is ended then.
limit=${WRENN_LAB_SECONDS:-550}
memory=4096

say() { printf '%s\n' "lab: $*"; }
die() { say "$*" >&2; exit 1; }

# Builds the test programs of the suites and lists them.
programs() {
    local suite
    for suite in "$@"; do
        [[ " ${suites[*]} " == *" $suite "* ]] || die "no suite $suite; there are: ${suites[*]}"
    done
    mkdir -p target/real-host
    [[ -x builds/envd ]] || scripts/build-envd.sh
    scripts/test-programs.sh "$@" >target/real-host/list
}

# The disk with what is different in each run.
payload() {
    local run=$1 tree=$1/payload program
    mkdir -p "$tree/checkout/target/debug/deps" "$tree/checkout/builds" "$tree/checkout/target/real-host"
    install -m 0755 tests/lab/init tests/lab/suites.sh "$tree/"
    echo "$PWD" >"$tree/checkout-path"
    if [[ $2 == bench ]]; then
        install -D -m 0755 target/release/bench "$tree/checkout/target/release/bench"
        cp builds/wrenn "$tree/checkout/builds/"
        mkdir "$tree/checkout/bench"
    fi
    printf 'export %s=%q\n' WRENN_TEST_THREADS "${WRENN_TEST_THREADS:-2}" WRENN_TEST_ONLY "${WRENN_TEST_ONLY:-}" \
        RUST_LOG "${RUST_LOG:-info}" ${CONFORMANCE_DRIVER:+CONFORMANCE_DRIVER "$CONFORMANCE_DRIVER"} \
        ${CONFORMANCE_ACCEL:+CONFORMANCE_ACCEL "$CONFORMANCE_ACCEL"} \
        ${AGENT_SYSCALL_FILTER:+AGENT_SYSCALL_FILTER "$AGENT_SYSCALL_FILTER"} \
        >"$tree/environment"
    { stty size 2>/dev/null </dev/tty || echo 24 80; } >"$tree/window"
    echo "${TERM:-dumb}" >"$tree/term"
    mkdir -p "$tree/checkout/target/testdata" "$tree/checkout/crates"
    for program in crates/*/; do mkdir -p "$tree/checkout/$program"; done
    [[ ! -x builds/envd ]] || cp builds/envd "$tree/checkout/builds/"
    for program in target/debug/{wrenn,wrenn-agent,vmm-pager}; do
        [[ ! -x $program ]] || strip -g -o "$tree/checkout/$program" "$program"
    done
    if [[ -s target/real-host/list ]]; then
        cp target/real-host/list "$tree/checkout/target/real-host/"
        while read -r _ _ program; do
            strip -g -o "$tree/checkout/${program#"$PWD/"}" "$program"
        done <target/real-host/list
    fi
    program=${FIRECRACKER_BIN:-$(command -v firecracker || true)}
    if [[ -n $program ]]; then
        cp "$program" "$tree/checkout/target/debug/firecracker"
    fi
    truncate -s 2G "$run/payload.ext4"
    mke2fs -q -F -t ext4 -m 0 -d "$tree" "$run/payload.ext4"
    rm -rf "$tree"
}

accelerator() {
    local wrenn=target/debug/wrenn
    if [[ -n ${WRENN_LAB_ACCEL:-} ]]; then
        echo "$WRENN_LAB_ACCEL"
    elif [[ -x $wrenn ]] && "$wrenn" doctor --json 2>/dev/null | grep -q '"accel": *"kvm"'; then
        echo kvm
    else
        echo tcg
    fi
}

# An emulated kernel cannot calibrate its clock about every second time, and hangs: it is told. On a loaded machine it
# takes its timer for broken, and panics.
clock() { awk '/^cpu MHz/ { printf "no_timer_check tsc_early_khz=%d", $4 * 1000; exit }' /proc/cpuinfo; }

# Becomes the VM; its second serial line is ours. To be called in a subshell.
start() {
    local run=$1 mode=$2 accel cpu name
    accel=$(accelerator)
    cpu=${WRENN_LAB_CPU:-max,la57=off}
    [[ $accel == tcg ]] || cpu=host
    payload "$run" "$mode"
    truncate -s 1G "$run/results.ext4"
    mke2fs -q -F -t ext4 -m 0 "$run/results.ext4"
    local drives=()
    for name in root payload data results; do
        local file=$run/$name.ext4 format=raw
        if [[ ! -e $file ]]; then
            file=$run/$name.qcow2 format=qcow2
            qemu-img create -q -f qcow2 -F raw -b "$(realpath "$lab/$name.ext4")" "$file"
        fi
        drives+=(-drive "file=$file,if=virtio,format=$format,cache=unsafe")
    done
    [[ $accel == kvm ]] || accel=tcg,thread=${WRENN_LAB_THREAD:-multi}
    local at_most=()
    [[ $mode == shell ]] || at_most=(timeout -k 10 "$limit")
    exec "${at_most[@]}" qemu-system-x86_64 -M q35 -cpu "$cpu" -accel "$accel" -smp 2 -m "$memory" \
        -nodefaults -display none -no-reboot \
        -kernel "$data/kernels/vmlinux" -initrd "$lab/initramfs" \
        -append "console=ttyS0 quiet panic=-1 $(clock) lab=$mode" "${drives[@]}" \
        -serial "file:$run/console.log" "${@:3}"
}

new_run() {
    mkdir -p "$data/run"
    run=$(mktemp -d "$data/run/lab-XXXXXX")
    vm=
    trap '[[ -z $vm ]] || kill "$vm" 2>/dev/null; rm -rf "$run"' EXIT
    trap 'exit 130' INT TERM
}

shell() {
    tests/lab/build.sh
    programs "${suites[@]}"
    new_run
    say "starting; leave it with: exit"
    (start "$run" shell -serial mon:stdio)
}

# Starts the VM for `run` or `bench`, shows what it prints, and brings back its logs. Leaves in `status` what the work
# in it ended with: `lost` if the machine itself did not come to the end.
attempt() {
    local mode=$1
    new_run
    rm -rf "$logs"
    mkdir -p "$logs"
    (start "$run" "$mode" -serial "file:$run/output") &
    vm=$!
    tail --pid="$vm" -s 0.5 -F "$run/output" 2>/dev/null &
    wait "$vm" || say "the VM ended with status $? (124 means that it took longer than $limit s)"
    vm=
    wait
    e2fsck -fp "$run/results.ext4" >/dev/null || true
    debugfs -R "rdump / $logs" "$run/results.ext4" 2>/dev/null || true
    cp "$run/console.log" "$logs/" 2>/dev/null || true
    status=$(cat "$logs/status" 2>/dev/null || echo lost)
    [[ $status != lost ]] || { say 'the last words of its console:' && tail -n 5 "$logs/console.log"; }
    rm -rf "$run"
}

run_in_lab() {
    local status
    tests/lab/build.sh
    programs "$@"
    say "starting, for: $*"
    attempt run
    if [[ $status == lost ]]; then
        say 'the machine itself did not come to the end, which says nothing of the tests: once more'
        attempt run
    fi
    [[ $status == 0 ]] && return
    say "failed (status $status); logs, console and dmesg are in ${logs#"$PWD/"}" >&2
    [[ $status != lost ]] || echo 'test result: FAILED. 0 passed; 1 failed'
    return 1
}

bench() {
    local status
    tests/lab/build.sh
    rm -f target/real-host/list target/bench/report-*.json
    say 'starting, to measure'
    attempt bench
    [[ $status == 0 ]] || die "the measurement failed; see ${logs#"$PWD/"}"
    cp "$logs"/report-*.json target/bench/ && ls "$PWD"/target/bench/report-*.json
}

command=${1:-}
shift || true
case $command in
    build) tests/lab/build.sh && say "ready in target/lab" ;;
    shell) shell ;;
    run) run_in_lab "${@:-${by_default[@]}}" ;;
    host) set -- "${@:-${by_default[@]}}" && programs "$@" && RESULTS=$logs tests/lab/suites.sh ;;
    bench) bench ;;
    *) die "usage: lab.sh build|shell|run|host|bench [SUITE…]; suites: ${suites[*]}" ;;
esac
