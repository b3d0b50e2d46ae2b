/** Runs the scenarios of `sdks/conformance` against the server of `WRENN_API_URL`. */

import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe } from "node:test";

import * as sdk from "@wrenn/sandbox";
import { OPERATIONS, type Fields, type World } from "./operations.js";
import { test } from "./bounded.js";
import { matches, resolve, show, toPlain, type Plain } from "./values.js";

interface Step {
  do: string;
  on?: string;
  with?: Fields;
  as?: string;
  expect?: Plain;
  error?: Plain;
}

interface Scenario {
  name: string;
  uses?: "shared";
  through?: "faults";
  steps: Step[];
}

const DIRECTORY = new URL("../../conformance/", import.meta.url);
const apiUrl = process.env["WRENN_API_URL"];
assert.ok(apiUrl, "set WRENN_API_URL and WRENN_API_KEY to those of a server for tests");

let shared: sdk.Sandbox;
let proxy: ChildProcess;
let proxyUrl: string;
const temporary = mkdtempSync(join(tmpdir(), "wrenn-conformance-"));

before(async () => {
  proxy = spawn("python3", [new URL("faults.py", DIRECTORY).pathname, "--to", apiUrl], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: proxy.stdout! })) {
    proxyUrl = line;
    break;
  }
  shared = await sdk.Sandbox.create({ timeoutMs: 3_600_000 });
});

after(async () => {
  proxy.stdin?.end();
  await shared?.kill();
  rmSync(temporary, { recursive: true });
});

/** Code of an error by the table of `sdks/README.md`. */
function codeOf(error: unknown): string {
  if (error instanceof sdk.CommandNotStartedError) {
    return "command_not_started";
  }
  return error instanceof sdk.WrennError ? error.code : "unknown";
}

async function runStep(step: Step, world: World): Promise<void> {
  const operation = OPERATIONS[step.do];
  assert.ok(operation, `the runner does not know ${step.do}`);
  const fields = resolve((step.with ?? {}) as Plain, world.values) as Fields;
  let result: unknown;
  try {
    result = await operation(world, step.on ?? "sandbox", fields);
  } catch (error) {
    if (step.error === undefined) {
      throw error;
    }
    const wanted = resolve(step.error, world.values);
    const { exitCode, stdout, stderr, message } = error as sdk.CommandExitError;
    const got = { code: codeOf(error), exit_code: exitCode, stdout, stderr, message } as unknown as Plain;
    const pattern = typeof wanted === "string" ? { code: wanted } : wanted;
    assert.ok(matches(pattern, got), `${show(pattern)} does not match ${String(error)} (${codeOf(error)})`);
    return;
  }
  assert.equal(step.error, undefined, `${step.do} did not fail`);
  if (step.as) {
    world.values.set(step.as, result);
  }
  if (step.expect !== undefined) {
    const pattern = resolve(step.expect, world.values);
    const got = toPlain(result);
    assert.ok(matches(pattern, got), `${show(pattern)}\ndoes not match\n${show(got)}`);
  }
}

async function runScenario(scenario: Scenario): Promise<void> {
  const client = new sdk.Client(scenario.through ? { apiUrl: proxyUrl, apiKey: process.env["WRENN_API_KEY"] } : {});
  const world: World = { client, proxyUrl, temporary, values: new Map(), cleanups: [] };
  const { values, cleanups } = world;
  values.set("client", client).set("run", randomBytes(4).toString("hex")).set("server_url", apiUrl);
  try {
    if (scenario.uses) {
      const dir = `/home/user/scenario-${randomBytes(4).toString("hex")}`;
      await shared.files.makeDir(dir);
      values.set("dir", dir).set("sandbox", await sdk.Sandbox.get(shared.sandboxId, { client }));
    }
    for (const [index, step] of scenario.steps.entries()) {
      try {
        await runStep(step, world);
      } catch (error) {
        throw new Error(`step ${index + 1}, ${step.do}: ${String(error)}`, { cause: error });
      }
    }
  } finally {
    for (const cleanup of cleanups.reverse()) {
      await cleanup();
    }
  }
}

const files = readdirSync(new URL("scenarios/", DIRECTORY)).filter((name) => name.endsWith(".json"));
assert.ok(files.length > 0);
for (const file of files.sort()) {
  const scenarios = JSON.parse(readFileSync(new URL(`scenarios/${file}`, DIRECTORY), "utf8")) as Scenario[];
  describe(file, () => {
    for (const scenario of scenarios) {
      test(scenario.name, () => runScenario(scenario));
    }
  });
}
