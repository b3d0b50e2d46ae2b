#!/usr/bin/env bash
# Prepares the directory of an installation: prepare.sh [kernel|images]… (default both)
#
# Images are those that IMAGE names (default: minimal; all: each recipe in images/). Kernel and images go where the host
# agent looks for them: WRENN_DIR, or AGENT_KERNEL_PATH and AGENT_IMAGES_PATH, from the environment or from .env. Does
# nothing when they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

setting() {
    local name=$1 value=
    value=${!name:-}
    [[ -n $value || ! -f .env ]] || value=$(sed -n "s/^$name=//p" .env | tail -n 1 | tr -d "\"'")
    printf '%s' "${value:-$2}"
}

parts=("$@")
[[ ${#parts[@]} -gt 0 ]] || parts=(kernel images)
dir=$(setting WRENN_DIR /var/lib/wrenn)
kernel=$(setting AGENT_KERNEL_PATH "$dir/kernels/vmlinux")
images=$(setting AGENT_IMAGES_PATH "$dir/images")

as_root=()
parent=$dir
while [[ ! -e $parent ]]; do parent=$(dirname "$parent"); done
if [[ $(id -u) != 0 && ! -w $parent ]]; then
    command -v sudo >/dev/null || { echo "you may not write to $dir: run this as root, or set WRENN_DIR" >&2; exit 1; }
    as_root=(sudo)
fi

# Of whoever is behind sudo: that user starts the control plane, which keeps its key there.
[[ -d $dir ]] || "${as_root[@]}" install -d -m 0750 -o "${SUDO_UID:-$(id -u)}" "$dir"

for part in "${parts[@]}"; do
    case $part in
        kernel)
            if [[ $(basename "$kernel") == vmlinux ]]; then
                "${as_root[@]}" scripts/fetch-kernel.sh "$(dirname "$kernel")"
            else
                echo "kernel: AGENT_KERNEL_PATH names one of your own, $kernel"
            fi
            ;;
        images)
            if [[ $(id -u) != 0 ]]; then as_root=(sudo); fi
            names=${IMAGE:-minimal}
            [[ $names != all ]] || names=$(cd images && echo *)
            for name in $names; do
                "${as_root[@]}" scripts/build-image.sh "$name" "$images"
            done
            ;;
        *) echo "no such part: $part" >&2; exit 2 ;;
    esac
done
