#!/usr/bin/env bash
# Saves the template of the code interpreter running: save-code-interpreter.sh [NAME] (default code-interpreter-v1, the
# name that E2B's SDKs ask for). Needs `wrenn` (or the program that WRENN names), its credentials, and the image
# `code-interpreter` (make images IMAGE=code-interpreter).
#
# A sandbox of the image starts the server, whose Python kernel imports what most cells import; its snapshot with memory
# is the template. One of that name is replaced. WRENN_VCPUS and WRENN_MEMORY are the sizes of all sandboxes made of it.
set -euo pipefail

name=${1:-code-interpreter-v1}
wrenn=${WRENN:-wrenn}
preload=numpy,pandas,matplotlib.pyplot,PIL.Image
say() { printf '%s\n' "template $name: $*"; }

id=$("$wrenn" create --template code-interpreter --vcpus "${WRENN_VCPUS:-1}" --memory "${WRENN_MEMORY:-1g}" \
    --timeout 1h --restart always --user root -- code-interpreter serve --preload "$preload")
trap '"$wrenn" rm "$id" >/dev/null' EXIT
say "waiting for its kernel in $id"
if ! "$wrenn" exec --user root "$id" -- code-interpreter wait --timeout "${WRENN_READY_SEC:-900}"; then
    "$wrenn" ps "$id" >&2
    "$wrenn" logs "$id" | tail -n 20 >&2
    exit 1
fi
"$wrenn" snapshot "$id" "$name" --overwrite
say "saved; \`wrenn create --template $name\`, and E2B's \`Sandbox.create()\` of the code interpreter, go on from here"
