/** Runs the quickstart of README.md as it is written, against the server of `WRENN_API_URL`. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "./bounded.js";
import { fileURLToPath } from "node:url";

test("quickstart_runs_as_written", () => {
  const root = new URL("..", import.meta.url);
  const program = /## Quickstart\n\n```ts\n([\s\S]*?)```/.exec(readFileSync(new URL("README.md", root), "utf8"))![1]!;
  const source = fileURLToPath(new URL("target/readme.mts", root));
  writeFileSync(source, program);
  const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
  const options = ["--module", "nodenext", "--target", "es2022", "--lib", "es2022,esnext.disposable,dom", "--strict"];
  execFileSync(process.execPath, [tsc, ...options, "--types", "node", source], {
    cwd: fileURLToPath(root),
    stdio: "inherit",
  });
  const output = execFileSync(process.execPath, [source.replace(".mts", ".mjs")], { encoding: "utf8" });
  assert.match(output, /^hi\n\n42\n 0\n(stdout: [\s\S]*)$/);
  assert.equal(output.replace(/^[\s\S]*?stdout/, "stdout").replaceAll("stdout: ", ""), "1\n2\n3\n");
});
