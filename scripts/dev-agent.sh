#!/usr/bin/env bash
# The host agent for development, with kernel and image prepared: the counterpart of dev.sh. Becomes root with sudo.
set -euo pipefail
cd "$(dirname "$0")/.."

[[ -f .env ]] || { cp .env.example .env && echo 'dev-agent: made .env from .env.example'; }
if [[ -z ${WRENN_BUILT:-} ]]; then
    scripts/deps.sh run build
    scripts/build-envd.sh
    scripts/cargo.sh build --locked --bin wrenn-agent
fi
if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || { echo 'dev-agent: run it as root: VMs, disks and networks need it' >&2; exit 1; }
    exec sudo --preserve-env env WRENN_BUILT=1 "$PWD/scripts/dev-agent.sh"
fi

scripts/prepare.sh
export AGENT_ENVD_PATH=${AGENT_ENVD_PATH:-$PWD/builds/envd}
exec target/debug/wrenn-agent
