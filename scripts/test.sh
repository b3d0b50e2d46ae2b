#!/usr/bin/env bash
# Runs the tests: test.sh [SUITE…], by default the suites of the list `all` below, in this order.
#
# First come the packages, the programs and the test data, all kept from run to run. Then each suite runs to its end,
# whatever became of the one before. The last line is the sum: `N passed, N failed`; the exit status is 0 only if
# nothing failed. Needs root, because the stories run real VMs. Logs of the suites stay in target/test-logs.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

logs=target/test-logs
suite_crates() { scripts/test-crates.sh; }
# One story at a time: each compares the host before and after.
suite_stories() {
    local program
    program=$(scripts/test-programs.sh e2e/stories) || return
    (cd tests/e2e && "${program##* }" --test-threads=1)
}
suite_api() { scripts/check-api.sh; }
suite_sdks() { scripts/test-sdks.sh; }
suite_integrations() { scripts/test-integrations.sh; }
# Published clients of E2B; `scripts/test-e2b.sh --all` has more versions of them.
suite_e2b() { scripts/test-e2b.sh; }
suite_mcp() { scripts/test-mcp.sh; }
suite_original() { scripts/test-original.sh; }
suite_docs() { scripts/test-docs.sh; }
# What needs device-mapper, in a VM that has it.
suite_lab() { scripts/lab.sh run; }
suite_scripts() { scripts/tests/run.sh; }
suite_leftovers() {
    local left
    # What has just been told to end may need a moment.
    for _ in {1..20}; do
        left=$(scripts/leftovers.sh | comm -13 "$logs/before" -)
        [[ -n $left ]] || break
        sleep 1
    done
    if [[ -n $left ]]; then
        printf '%s\n' 'The tests left this on the host:' "$left"
        echo 'test result: FAILED. 0 passed; 1 failed'
        return 1
    fi
    echo 'test result: ok. 1 passed; 0 failed'
}
# name:seconds it may take
all=(crates:2100 stories:2100 api:1800 sdks:900 mcp:600 docs:600 lab:1200 scripts:240 leftovers:60)
# Only when named: scripts/test-long.sh has them whole.
named=(e2b:900 original:900 integrations:1800)

say() { printf '\n=== %s\n' "$*"; }

passed=0
failed=0
summary=()
child=
trap '[[ -z $child ]] || kill -TERM -- "-$child" 2>/dev/null; echo; echo "interrupted"; exit 130' INT TERM

finish() {
    printf '\n'
    [[ ${#summary[@]} == 0 ]] || printf '%s\n' "${summary[@]}"
    printf '%s passed, %s failed\n' "$passed" "$failed"
    ((failed == 0))
    exit
}

# A step without which no suite makes sense.
prepare() {
    local what=$1
    shift
    say "$what"
    if ! "$@"; then
        summary+=("$(printf '%-12s FAILED: %s' preparation "$what; its message is above")")
        failed=1
        finish
    fi
}

# Counts as `cargo test` prints them; the other suites end with such a line, too.
count() {
    sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$1" |
        awk '{ passed += $1; failed += $2 } END { print passed + 0, failed + 0 }'
}

# The tests that failed, and how each panic begins.
failures() {
    awk '/^test .* FAILED$/ { print "  " $0 }
         / panicked at / { lines = 4 }
         lines-- > 0 { print "    " substr($0, 1, 400) }' "$1"
}

# What a suite said last that failed without a test that did: a build, or a machine.
last_words() { tail -n 25 "$1" | cut -c1-400 | sed 's/^/    /'; }

run_suite() {
    local name=$1 limit=$2 log=$logs/$1.log begin=$SECONDS status ok bad verdict=ok
    say "$name (at most $((limit / 60)) minutes)"
    # In a process group of its own, so that all of it can be ended.
    set -m
    ("suite_$name") > >(tee "$log") 2>&1 &
    child=$!
    set +m
    (sleep "$limit" && echo "$name takes longer than $limit seconds; ending it" >&2 && kill -TERM -- "-$child") 2>&1 &
    local watchdog=$!
    wait "$child"
    status=$?
    kill "$watchdog" 2>/dev/null
    child=
    # tee has read everything when its file no longer grows: it ends with the last writer.
    sleep 0.2
    read -r ok bad < <(count "$log")
    # A crash, a build error or the time limit fails no single test.
    ((status == 0 || bad > 0)) || bad=1
    ((bad == 0)) || verdict="FAILED, see $log"
    passed=$((passed + ok))
    failed=$((failed + bad))
    local line
    printf -v line '%-12s %4d passed %4d failed %5d s  %s' "$name" "$ok" "$bad" "$((SECONDS - begin))" "$verdict"
    summary+=("$line")
    ((bad == 0)) || summary+=("$(failures "$log" | grep . || last_words "$log")")
}

wanted=("$@")
[[ ${#wanted[@]} -gt 0 ]] || wanted=("${all[@]%%:*}")
[[ $(id -u) == 0 ]] || { echo "the tests run real VMs and need root: sudo make test" >&2; exit 1; }

mkdir -p "$logs"
prepare 'packages' scripts/deps.sh run build console test
prepare 'guest agent' scripts/build-envd.sh
prepare 'libraries of the console' scripts/build-console.sh
prepare 'programs and tests (the first time takes some minutes)' \
    scripts/cargo.sh build --locked --workspace --all-targets
prepare 'guest kernel and image' scripts/test-data.sh
[[ " ${wanted[*]} " != *" docs "* ]] || prepare 'the guide' scripts/build-docs.sh
[[ " ${wanted[*]} " != *" e2b "* ]] || prepare 'clients of E2B' python3 tests/e2b/run.py --install
scripts/leftovers.sh >"$logs/before"

for suite in "${named[@]}" "${all[@]}"; do
    [[ " ${wanted[*]} " != *" ${suite%%:*} "* ]] || run_suite "${suite%%:*}" "${suite##*:}"
done
finish
