#!/usr/bin/env bash
# Tests a package in Python against the server that WRENN_DIR or WRENN_API_URL names:
# test-python.sh NAME [ARGUMENTS OF PYTEST]
#
# Formatter, linter and type checker, then the tests: by default those that are not `long`. The package and the SDK are
# installed as users install them, into an environment that is kept in target/venv with the framework that
# NAME/requirements.txt pins. The last line is one of `cargo test`, for the sum.
set -euo pipefail
cd "$(dirname "$0")"
name=$1
shift
[[ $# -gt 0 ]] || set -- -m 'not long'

root=$(cd ../.. && pwd)
venv=$root/target/venv/integration-$name
bin=$venv/bin
tools='setuptools==80.9.0 ruff==0.17.6 mypy==2.4.1 pytest==9.2.0 pytest-asyncio==1.4.0 pytest-timeout==2.4.0'
tools+=' httpx>=0.27 websockets>=15'
wanted="$tools $(tr '\n' ' ' <"$name/requirements.txt")"
if [[ "$(cat "$venv/requirements" 2>/dev/null)" != "$wanted" ]]; then
    echo "installing what the tests need into $venv"
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    # shellcheck disable=SC2086 # words, on purpose
    "$bin/pip" install --quiet --disable-pip-version-check $wanted
    echo "$wanted" >"$venv/requirements"
fi

work=$(mktemp -d "$root/target/integration-$name-XXXXXX")
trap 'rm -rf "$work"' EXIT
# Builds write into the source, so they get a copy.
for source in "$root/sdks/python" "$PWD/$name"; do
    copy=$work/$(basename "$source")
    mkdir "$copy"
    cp -r "$source"/{src,pyproject.toml,README.md,LICENSE} "$copy"
    find "$copy" -name '*.egg-info' -prune -exec rm -rf {} +
    "$bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall "$copy"
done

export PYTHONDONTWRITEBYTECODE=1 MYPYPATH=$PWD/testing PYTHONPATH=$PWD/testing
passed=0
failed=0
# A check counts as one test.
check() {
    local check=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "test $name::$check ... FAILED"
    fi
}
cd "$name"
check format "$bin/ruff" format --no-cache --quiet --check .
check lints "$bin/ruff" check --no-cache --quiet .
check mypy "$bin/mypy" --no-error-summary --config-file ../mypy.ini --cache-dir "$root/target/mypy-$name"
"$bin/pytest" -c ../pytest.ini --rootdir . --durations 5 --junit-xml "$work/report" "$@" tests || true
read -r ok bad < <(python3 - "$work/report" <<'PYTHON'
import sys
import xml.etree.ElementTree as xml

try:
    cases = list(xml.parse(sys.argv[1]).iter("testcase"))
except (OSError, xml.ParseError):
    cases = []


def is_bad(part):
    # A test that is known to contradict the framework fails as expected, or else is bad.
    return part.tag in ("failure", "error", "skipped") and part.get("type") != "pytest.xfail"


bad = sum(any(is_bad(part) for part in case) for case in cases)
print(len(cases) - bad, bad if cases else 1)
PYTHON
)
passed=$((passed + ok))
failed=$((failed + bad))
printf 'test result: %s. %s passed; %s failed\n' "$( ((failed == 0)) && echo ok || echo FAILED)" "$passed" "$failed"
((failed == 0))
