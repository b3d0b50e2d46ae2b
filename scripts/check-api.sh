#!/usr/bin/env bash
# Sends a real server thousands of requests made from its own API document, right and wrong ones (schemathesis), and
# checks that every answer is one that the document allows.
#
# The server is `wrenn up` with real VMs, in a directory of its own, with small limits; all of it goes at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

version=4.32.5
examples=${WRENN_API_EXAMPLES:-5}
venv=target/venv/schemathesis-$version
# shellcheck source=scripts/server.sh
source scripts/server.sh

if [[ ! -x $venv/bin/schemathesis ]]; then
    echo "installing schemathesis $version into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi

# So small that no request can fill the machine.
export CP_MAX_VCPUS=1 CP_MAX_MEMORY_MB=256 CP_MAX_DISK_MB=8192 CP_MAX_TIMEOUT_SEC=3600 AGENT_MAX_SANDBOXES=4
start_server api
url=$(read_credential WRENN_API_URL)
key=$(read_credential WRENN_API_KEY)

echo 'making the sandbox that requests are about'
WRENN_API_SANDBOX=$("$wrenn" create --memory 256 --timeout 3600)
WRENN_API_WEBHOOK=$("$wrenn" webhook create https://webhooks.invalid/ 2>/dev/null | cut -d ' ' -f 1)
export WRENN_API_SANDBOX WRENN_API_WEBHOOK
export PYTHONPATH=$PWD/scripts PYTHONDONTWRITEBYTECODE=1 SCHEMATHESIS_HOOKS=api_hooks

status=0
# Not: that all data of the right form is accepted. Users and programs that a guest does not have are of the right form.
# Deterministic, so that a failure is one of the change at hand and can be had again. Without stateful sequences: those
# follow links that the document does not have. The WebSocket route is no HTTP, and the stream of events
# has no end. A pull needs a registry, which the tests of its crate start. How long an answer takes is for the
# benchmark to say, not for slow and noisy machines: the limit is only for what hangs.
(cd "$dir" && "$OLDPWD/$venv/bin/schemathesis" run "$url/openapi.json" --header "X-API-Key: $key" --checks all \
    --exclude-checks positive_data_acceptance \
    --phases examples,coverage,fuzzing --exclude-path-regex '(exec|events)/stream$|/pull$' --max-examples "$examples" \
    --generation-deterministic --request-timeout 60 --max-response-time 60 --no-color \
    --report junit --report-junit-path "$dir/report.xml") || status=$?
"$wrenn" exec "$WRENN_API_SANDBOX" -- true || { echo 'the sandbox did not survive the requests' >&2; status=1; }
"$venv/bin/python" - "$dir/report.xml" <<'PYTHON' || status=1
import sys
import xml.etree.ElementTree as xml

cases = list(xml.parse(sys.argv[1]).iter("testcase"))
failed = sum(any(part.tag in ("failure", "error") for part in case) for case in cases)
print(f"test result: {'FAILED' if failed else 'ok'}. {len(cases) - failed} passed; {failed} failed")
sys.exit(1 if failed or not cases else 0)
PYTHON
check_server || status=1
exit "$status"
