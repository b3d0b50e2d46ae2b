#!/usr/bin/env bash
# Tests what `test.sh` leaves out, against the same server: large data, and the package in a new environment.
set -euo pipefail
exec "$(dirname "$0")/test.sh" -m long
