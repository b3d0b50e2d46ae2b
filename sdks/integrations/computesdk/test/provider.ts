/**
 * What ComputeSDK asks of a provider, against the server of `WRENN_API_URL`: the checks of its test suite for
 * providers, which is in no registry, and those of what is beyond it. With `LONG=1` all of them.
 */

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { ProviderSandbox } from "@computesdk/provider";
import { Sandbox } from "@wrenn/sandbox";
import { wrenn } from "@wrenn/computesdk";

const isLong = process.env["LONG"] === "1";
const root = new URL("..", import.meta.url);
const compute = wrenn();

test("quickstart_runs_as_written", { timeout: 120_000 }, () => {
  const program = /## Quickstart\n\n```ts\n([\s\S]*?)```/.exec(readFileSync(new URL("README.md", root), "utf8"))![1]!;
  const source = fileURLToPath(new URL("target/readme.mts", root));
  writeFileSync(source, program);
  const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
  const options = ["--module", "nodenext", "--target", "es2022", "--strict", "--skipLibCheck", "--types", "node"];
  execFileSync(process.execPath, [tsc, ...options, source], { cwd: fileURLToPath(root), stdio: "inherit" });
  const output = execFileSync(process.execPath, [source.replace(".mts", ".mjs")], { encoding: "utf8" });
  assert.equal(output, "42 0\n");
});

test("package_is_there_for_commonjs", () => {
  const program = 'console.log(typeof require("@wrenn/computesdk").wrenn)';
  const output = execFileSync(process.execPath, ["-e", program], { cwd: fileURLToPath(root), encoding: "utf8" });
  assert.equal(output, "function\n");
});

describe("provider", { skip: !isLong, timeout: 900_000 }, () => {
  let sandbox: ProviderSandbox<Sandbox>;

  before(async () => {
    sandbox = await compute.sandbox.create({ metadata: { suite: "computesdk", number: 1 }, envs: { KIND: "made" } });
  });
  after(() => sandbox.destroy());

  test("sandbox_has_id_and_info", async () => {
    assert.equal(sandbox.provider, "wrenn");
    assert.ok(sandbox.getInstance() instanceof Sandbox);
    const info = await sandbox.getInfo();
    assert.equal(info.id, sandbox.sandboxId);
    assert.equal(info.provider, "wrenn");
    assert.equal(info.status, "running");
    assert.equal(info.timeout, 300_000);
    assert.deepEqual(info.metadata, { suite: "computesdk", number: "1" });
    assert.ok(Math.abs(info.createdAt.getTime() - Date.now()) < 600_000);
  });

  test("command_has_output_and_code", async () => {
    const result = await sandbox.runCommand('echo "Hello $KIND"; echo bad >&2; exit 3');
    assert.deepEqual([result.stdout, result.stderr, result.exitCode], ["Hello made\n", "bad\n", 3]);
    assert.ok(result.durationMs > 0);
  });

  test("command_that_is_not_there_fails", async () => {
    assert.equal((await sandbox.runCommand("nonexistent-command-12345")).exitCode, 127);
  });

  test("command_quoting_is_kept", async () => {
    assert.equal((await sandbox.runCommand(`sh -c 'echo "hello world"'`)).stdout, "hello world\n");
    assert.match((await sandbox.runCommand(`sh -c 'echo "$HOME"'`)).stdout, /^\/\w+/);
    const piped = `sh -c 'echo "test content" > /tmp/quoting.txt && cat /tmp/quoting.txt'`;
    assert.equal((await sandbox.runCommand(piped)).stdout, "test content\n");
  });

  test("command_has_directory_and_variables", async () => {
    const result = await sandbox.runCommand("pwd; echo $A", { cwd: "/usr", env: { A: "a b" } });
    assert.equal(result.stdout, "/usr\na b\n");
  });

  test("background_command_outlives_call", async () => {
    const begin = Date.now();
    const result = await sandbox.runCommand("sleep 2; echo late > /tmp/late", { background: true });
    assert.equal(result.exitCode, 0);
    const deadline = begin + 60_000;
    while (!(await sandbox.filesystem.exists("/tmp/late"))) {
      assert.ok(Date.now() < deadline);
    }
  });

  test("output_comes_while_command_runs", async () => {
    const chunks: string[] = [];
    const begin = Date.now();
    let first: number | undefined;
    const result = await sandbox.runCommand("for i in 1 2 3 4 5; do echo tick $i; sleep 1; done", {
      onStdout: (text) => {
        first ??= Date.now();
        chunks.push(text);
      },
    });
    assert.equal(result.exitCode, 0);
    assert.ok(first !== undefined && first - begin < result.durationMs - 3_000);
    assert.equal(chunks.join(""), result.stdout);
    assert.equal(result.stdout, "tick 1\ntick 2\ntick 3\ntick 4\ntick 5\n");
  });

  test("streams_are_apart", async () => {
    const out: string[] = [];
    const err: string[] = [];
    const result = await sandbox.runCommand("echo out; echo err 1>&2; exit 3", {
      onStdout: (text) => out.push(text),
      onStderr: (text) => err.push(text),
    });
    assert.deepEqual([result.exitCode, out.join(""), err.join("")], [3, "out\n", "err\n"]);
  });

  test("command_beyond_timeout_is_ended", async () => {
    const result = await sandbox.runCommand("echo starting; sleep 3998", { timeout: 10_000, onStdout: () => {} });
    assert.equal(result.exitCode, 124);
    assert.equal(result.stdout, "starting\n");
    assert.ok(result.durationMs < 60_000);
    assert.equal((await sandbox.runCommand("pgrep -fx 'sleep 3998'")).exitCode, 1);
  });

  test("files_are_written_and_listed", async () => {
    const { filesystem } = sandbox;
    await filesystem.mkdir("/tmp/made/deep");
    await filesystem.mkdir("/tmp/made/deep");
    await filesystem.writeFile("/tmp/made/a.txt", "Hello, ComputeSDK filesystem! é");
    assert.equal(await filesystem.readFile("/tmp/made/a.txt"), "Hello, ComputeSDK filesystem! é");
    const entries = await filesystem.readdir("/tmp/made");
    assert.deepEqual(
      entries.map(({ name, type }) => [name, type]),
      [
        ["a.txt", "file"],
        ["deep", "directory"],
      ],
    );
    assert.equal(entries[0]!.size, 32);
    await filesystem.remove("/tmp/made");
    assert.equal(await filesystem.exists("/tmp/made"), false);
    await assert.rejects(filesystem.readFile("/nonexistent/file.txt"));
  });

  test("url_serves_port", async () => {
    await sandbox.runCommand("mkdir -p /tmp/web; echo served > /tmp/web/index.html");
    await sandbox.runCommand("python3 -m http.server 3000 --directory /tmp/web", { background: true });
    const url = await sandbox.getUrl({ port: 3000 });
    const deadline = Date.now() + 120_000;
    let body = "";
    while (body !== "served\n") {
      assert.ok(Date.now() < deadline, body);
      // As programs that keep cookies get it: the signed address becomes one.
      body = spawnSync("curl", ["-sL", "--max-time", "10", "-b", "", url], { encoding: "utf8" }).stdout;
    }
    assert.match(await sandbox.getUrl({ port: 3000, protocol: "wss" }), /^wss?:\/\//);
    await assert.rejects(sandbox.getUrl({ port: 3000, protocol: "gopher" }), /use http, https, ws or wss/);
  });

  test("sandbox_is_found_and_listed", async () => {
    const found = await compute.sandbox.getById(sandbox.sandboxId);
    assert.equal(found?.sandboxId, sandbox.sandboxId);
    const ids = (await compute.sandbox.list()).map(({ sandboxId }) => sandboxId);
    assert.ok(ids.includes(sandbox.sandboxId));
    assert.equal(await compute.sandbox.getById("sb-00000000000000000000"), null);
  });

  test("snapshot_makes_sandboxes", async () => {
    await sandbox.filesystem.writeFile("/tmp/state", "kept");
    const name = `computesdk-${process.pid}`;
    const snapshot = await compute.snapshot!.create(sandbox.sandboxId, { name });
    assert.equal(snapshot.id, name);
    assert.ok((await compute.snapshot!.list()).some(({ id }) => id === name));
    const ofSandbox = await compute.snapshot!.list({ sandboxId: sandbox.sandboxId });
    assert.deepEqual(
      ofSandbox.map(({ id }) => id),
      [name],
    );
    assert.deepEqual(await compute.snapshot!.list({ sandboxId: "sb-00000000000000000000" }), []);
    const other = await compute.sandbox.create({ snapshotId: name });
    try {
      assert.equal(await other.filesystem.readFile("/tmp/state"), "kept");
    } finally {
      await other.destroy();
      await compute.snapshot!.delete(name);
    }
    assert.equal(await compute.sandbox.getById(other.sandboxId), null);
    await compute.sandbox.destroy(other.sandboxId);
  });
});
