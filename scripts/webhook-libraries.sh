#!/usr/bin/env bash
# Installs the Standard Webhooks libraries of PyPI and npm, with which tests verify what we send, once. Prints the
# Python and the directory for Node.
set -euo pipefail
cd "$(dirname "$0")/.."

python=1.1.0
node=1.1.1
venv=$PWD/target/venv/standardwebhooks-$python
modules=$PWD/target/node/standardwebhooks-$node

if [[ ! -e $venv/ready ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "standardwebhooks==$python"
    touch "$venv/ready"
fi
if [[ ! -e $modules/ready ]]; then
    rm -rf "$modules"
    mkdir -p "$modules"
    npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$modules" "standardwebhooks@$node"
    touch "$modules/ready"
fi
printf '%s\n%s\n' "$venv/bin/python" "$modules"
