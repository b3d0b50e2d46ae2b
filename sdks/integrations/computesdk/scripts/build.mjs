// Compiles src/ twice, to ES modules and to CommonJS.
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");

rmSync(join(root, "dist"), { recursive: true, force: true });
for (const [name, type, options] of [
  ["esm", "module", []],
  ["cjs", "commonjs", ["--module", "commonjs", "--moduleResolution", "node10"]],
]) {
  const dir = join(root, "dist", name);
  mkdirSync(dir, { recursive: true });
  execFileSync(process.execPath, [tsc, "-p", root, "--outDir", dir, ...options], { stdio: "inherit" });
  writeFileSync(join(dir, "package.json"), JSON.stringify({ type }) + "\n");
}
