#!/usr/bin/env bash
# Packs the package, installs it elsewhere, and uses it from an ES module, from CommonJS, and from TypeScript of both.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
tsc=$PWD/node_modules/typescript/bin/tsc
npm pack --ignore-scripts --silent --pack-destination "$dir" >/dev/null
cd "$dir"
npm install --ignore-scripts --no-audit --no-fund --loglevel=error ./wrenn-sandbox-*.tgz @types/node@20 >/dev/null

cat >module.mts <<'TEXT'
import { Client, Sandbox, VERSION, type SandboxInfo } from "@wrenn/sandbox";
const infos: SandboxInfo[] = [];
console.log(typeof Sandbox.create, typeof new Client().health, VERSION, infos.length);
TEXT
sed 's/^import .*/import sdk = require("@wrenn\/sandbox");/; s/: SandboxInfo/: sdk.SandboxInfo/
    s/Sandbox\.create/sdk.&/; s/new Client/new sdk.Client/; s/VERSION/sdk.&/' module.mts >common.cts
lib=es2022,esnext.disposable,dom,dom.iterable,dom.asynciterable
node "$tsc" --module nodenext --target es2022 --lib "$lib" --strict --types node module.mts common.cts
wanted="function function $(node -p 'require("@wrenn/sandbox/package.json").version') 0"
for program in module.mjs common.cjs; do
    [[ $(node "$program") == "$wanted" ]] || { echo "$program does not say: $wanted" >&2; exit 1; }
done
[[ ! -e node_modules/@wrenn/sandbox/src && -e node_modules/@wrenn/sandbox/LICENSE ]]
