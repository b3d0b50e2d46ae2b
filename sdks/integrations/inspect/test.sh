#!/usr/bin/env bash
# Tests the package against the server that WRENN_DIR or WRENN_API_URL names: test.sh [ARGUMENTS OF PYTEST]
exec "$(dirname "$0")/../test-python.sh" inspect "$@"
