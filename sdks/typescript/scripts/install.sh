#!/usr/bin/env bash
# Installs what building and testing need, unless that is what is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

cmp -s package-lock.json node_modules/installed-lock.json || {
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
    cp package-lock.json node_modules/installed-lock.json
}
